"""Packed crops: two global and eight local crops in one pass of the VTP-S encoder, against two passes.

Times forward and backward of the tokens' sum of squares, weights' gradients included.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from vtp_core.features import Tokens
from vtp_core.ops import AttentionKernel, attention_choice
from vtp_core.ops.installed import installed
from vtp_plugins.bench.case import BenchCase
from vtp_plugins.bench.config import BenchOptions
from vtp_plugins.vit.config import VitEncoderConfig
from vtp_plugins.vit.encoder import VitEncoder

SHAPES = ("tiny:2x32x16", "s:4x224x96")
FORMAT = "PRESET:SAMPLESxGLOBALxLOCAL, the preset of the vit encoder and the crops' edges in pixels"

GLOBALS, LOCALS, PATCH = 2, 8, 16
CLOSE = {"float32": 1e-4, "bfloat16": 5e-2}
"""Relative error of the weights' gradients, of their norm, that is allowed."""


def build(shape: str, options: BenchOptions) -> BenchCase:
    """Normal noise as pixels, fresh weights, drop path off."""
    preset, _, sizes = shape.partition(":")
    samples, large, small = (int(part) for part in sizes.split("x"))
    torch.manual_seed(0)
    config = VitEncoderConfig.model_validate({"preset": preset, "patch": PATCH})
    encoder = VitEncoder(config)
    crops = [torch.randn(samples, GLOBALS, 3, large, large), torch.randn(samples, LOCALS, 3, small, small)]
    kernels = {kernel.name: kernel for kernel in installed(AttentionKernel)}
    narrow = options.precision == "bfloat16"

    def variant(attention: str, packed: bool) -> Callable[[], Tensor]:
        choice = attention_choice(attention, list(kernels.values()))

        def call() -> Tensor:
            encoder.use_attention(choice)
            with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
                tokens = _encode(encoder, crops, packed=packed)
            loss = sum(
                part.float().square().mean()
                for one in tokens
                for part in (one.cls, one.patches)
                if part is not None
            )
            assert isinstance(loss, Tensor)
            found = torch.autograd.grad(loss, list(encoder.parameters()))
            return torch.cat([gradient.flatten() for gradient in found])

        return call

    names = ("sdpa", "auto")
    variants = {
        f"{'packed' if packed else 'two passes'}, {name}": variant(name, packed)
        for name in names
        for packed in (False, True)
    }
    return BenchCase(
        name="packing",
        question="What does one packed pass of all crops gain over a pass a crop set?",
        shape=shape,
        rows=samples,
        unit="samples",
        variants=variants,
        check=lambda found, expected: _difference(found, expected, CLOSE[options.precision]),
        peak=options.precision,
    )


def _encode(encoder: nn.Module, crops: list[Tensor], *, packed: bool) -> list[Tokens]:
    if packed:
        return list(encoder(crops, [None] * len(crops)))
    return [encoder([images], [None])[0] for images in crops]


def _difference(found: object, expected: object, limit: float) -> str | None:
    assert isinstance(found, Tensor) and isinstance(expected, Tensor)
    error = ((found - expected).norm() / expected.norm()).item()
    return None if error <= limit else f"the weights' gradients are {error:.1e} off"
