"""Latents to images with the tokenizer of a recipe: our operators against SDPA."""

from __future__ import annotations

import torch

from vtp_plugins.bench.case import BenchCase
from vtp_plugins.bench.config import BenchOptions
from vtp_plugins.bench.models import CLOSE, FORMAT, SHAPES, build_tokenizer, check, read, variants

__all__ = ["FORMAT", "SHAPES", "build"]


def build(shape: str, options: BenchOptions) -> BenchCase:
    """Latents of normal pixels and fresh weights."""
    recipe, images, edge = read(shape)
    model = build_tokenizer(recipe, options)
    dtype = getattr(torch, options.precision)
    with torch.no_grad():
        pixels = torch.randn(images, 3, edge, edge).to(options.device, dtype)
        latent = model.encode(pixels).latent.to(dtype)
    return BenchCase(
        name="decode",
        question="How fast are latents decoded to images, with our operators and with torch's?",
        shape=shape,
        rows=images,
        unit="images",
        variants=variants(model, lambda tokenizer: tokenizer.decode(latent).sample, options),
        check=lambda found, expected: check(found, expected, CLOSE[options.precision]),
    )
