"""Resizing one crop: Pillow against torch's uint8 kernel, from the same decoded pixels.

Decides how `vtp_core/data` makes crops. Both filter with antialiasing; they round a little differently.
"""

from __future__ import annotations

import numpy
import torch
from PIL import Image
from torch.nn.functional import interpolate

from vtp_plugins.bench.case import BenchCase
from vtp_plugins.bench.config import BenchOptions

SHAPES = ("480x640x224",)
FORMAT = "HEIGHTxWIDTHxEDGE, the source's pixels and the edge of the result"

CLOSE_DB = 40.0


def build(shape: str, options: BenchOptions) -> BenchCase:
    """A smooth image with noise, resized to a square by a bilinear filter."""
    height, width, size = (int(part) for part in shape.split("x"))
    generator = numpy.random.default_rng(0)
    ramp = numpy.linspace(0, 200, width)[None, :, None] + generator.integers(0, 56, (height, width, 3))
    pixels = ramp.astype(numpy.uint8)
    # (1, 3, H, W) that shares its memory with the (H, W, 3) pixels: channels-last without a copy.
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)[None]

    def with_pillow() -> torch.Tensor:
        resized = Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR)
        return torch.from_numpy(numpy.array(resized)).permute(2, 0, 1)

    def with_torch() -> torch.Tensor:
        return interpolate(tensor, (size, size), mode="bilinear", antialias=True)[0]

    def with_torch_planes() -> torch.Tensor:
        planes = tensor.contiguous()
        return interpolate(planes, (size, size), mode="bilinear", antialias=True)[0]

    return BenchCase(
        name="resize",
        question="Which way of resizing a decoded image costs a loader worker the least time?",
        shape=shape,
        rows=1,
        unit="images",
        variants={"pillow": with_pillow, "torch": with_torch, "torch, channels first": with_torch_planes},
        check=peak_signal_to_noise,
    )


def peak_signal_to_noise(result: object, expected: object) -> str | None:
    """A sentence if two uint8 images are less alike than `CLOSE_DB`."""
    assert isinstance(result, torch.Tensor) and isinstance(expected, torch.Tensor)
    if result.shape != expected.shape:
        return f"shape {tuple(result.shape)} instead of {tuple(expected.shape)}"
    error = (result.double() - expected.double()).square().mean().item()
    decibels = float("inf") if error == 0 else float(10 * numpy.log10(255**2 / error))
    return None if decibels >= CLOSE_DB else f"only {decibels:.1f} dB alike"
