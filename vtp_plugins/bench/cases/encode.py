"""Images to latents with the tokenizer of a recipe: our operators against SDPA."""

from __future__ import annotations

import torch

from vtp_plugins.bench.case import BenchCase
from vtp_plugins.bench.config import BenchOptions
from vtp_plugins.bench.models import CLOSE, FORMAT, SHAPES, build_tokenizer, check, read, variants

__all__ = ["FORMAT", "SHAPES", "build"]


def build(shape: str, options: BenchOptions) -> BenchCase:
    """Normal pixels and fresh weights."""
    recipe, images, edge = read(shape)
    model = build_tokenizer(recipe, options)
    pixels = torch.randn(images, 3, edge, edge).to(options.device, getattr(torch, options.precision))
    return BenchCase(
        name="encode",
        question="How fast are images encoded to latents, with our operators and with torch's?",
        shape=shape,
        rows=images,
        unit="images",
        variants=variants(model, lambda tokenizer: tokenizer.encode(pixels).latent, options),
        check=lambda found, expected: check(found, expected, CLOSE[options.precision]),
    )
