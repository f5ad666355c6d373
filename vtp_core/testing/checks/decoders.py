"""Checks that any decoder has to pass; three lines in a plugin's own tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from vtp_core.decoder import Decoder
from vtp_core.parameters import Dims
from vtp_core.testing.checks.parts import (
    bfloat16,
    check_gradients,
    check_structure,
    expect,
    expect_close,
    unchanged,
)
from vtp_core.testing.networks import TINY_DIMS


def check_decoder(
    target: Callable[[Any, Dims], Decoder],
    config: Any,
    *,
    dims: Dims = TINY_DIMS,
    seed: int = 0,
    grid: tuple[int, int] = (4, 3),
    image_size: tuple[int, int] | None = None,
) -> None:
    """Runs a decoder on latents of noise, on a CPU.

    Images are (B, 3, h * patch, w * patch), also of maps that are not square; `forward` changes no state and
    treats rows apart; the value range is one that the core knows; every trainable parameter and the latent
    get a gradient; `last_layer` is a linear or convolutional layer that every image runs through; bfloat16
    stays near float32.

    Args:
        target: The decoder's class.
        config: Its table.
        dims: Sizes of the networks that it is built for.
        seed: Of weights and latents.
        grid: Rows and columns of the latents.
        image_size: Height and width of the images that it makes of them; None: `dims.patch` a position.

    Raises:
        ConformanceError: A rule is broken.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        decoder = target(config, dims)
        check_structure(decoder, lambda: target(config, dims))
        span = decoder.value_range
        known = span == "imagenet" or span[0] < span[1]
        expect(known, f'value_range {span!r}: expected "imagenet" or (black, white)')
        z = torch.randn(3, dims.channels, *grid)
        size = image_size or (grid[0] * dims.patch, grid[1] * dims.patch)
        for mode in (True, False):
            with unchanged(decoder, "forward"), torch.no_grad():
                image = decoder.train(mode)(z)
            shape = (3, 3, *size)
            expect(image.shape == shape, f"image {tuple(image.shape)}: expected {shape}")
            expect(bool(image.isfinite().all()), "the image is not finite")
        with torch.no_grad():
            rows = torch.cat([decoder(row) for row in z.split(1)])
            expect_close(rows, image, "a row depends on other rows (BatchNorm in training mode?)")
            with bfloat16():
                expect_close(decoder(z), image, "the image in bfloat16 is far from float32", 0.2)
        _check_last_layer(decoder.train(), z.requires_grad_())
        check_gradients(decoder)
        expect(z.grad is not None and bool(z.grad.isfinite().all()), "no finite gradient reaches the latent")


def _check_last_layer(decoder: Decoder, z: torch.Tensor) -> None:
    layer = decoder.last_layer()
    expect(
        isinstance(layer, nn.Linear | nn.Conv2d), f"last_layer() is {type(layer).__name__}: Linear or Conv2d"
    )
    expect(any(layer is module for module in decoder.modules()), "last_layer() is no module of the decoder")
    calls: list[int] = []
    handle = layer.register_forward_hook(lambda *_: calls.append(1))
    decoder(z).square().mean().backward()
    handle.remove()
    expect(len(calls) == 1, f"last_layer() runs {len(calls)} times in a forward: it must run once")
