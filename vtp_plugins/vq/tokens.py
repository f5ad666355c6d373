"""Quantises the tokens of all crop sets, and keeps a sample of them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from vtp_core.features import Latent, Tally, Tokens
from vtp_plugins.vq.quantizer import Quantized, Quantizer


def quantize_tokens(
    quantizer: Quantizer, crops: Mapping[str, tuple[Tensor, tuple[int, int]]], sample_tokens: int
) -> Latent:
    """The latent of quantised patches; all crop sets share one search and one tally.

    Args:
        quantizer: Of vectors of width d.
        crops: Crop set -> (patches (B, C, N, d), grid).
        sample_tokens: Vectors of each row that the tally keeps, evenly spread.
    """
    flat = [patches.flatten(0, 2) for patches, _ in crops.values()]
    found: Quantized = quantizer(torch.cat(flat))
    sizes = [part.shape[0] for part in flat]  # not len(), which fixes the batch of an exported program
    latent, codes = {}, {}
    pieces = zip(crops.items(), found.vectors.split(sizes), found.codes.split(sizes), strict=True)
    for (name, (patches, grid)), vectors, index in pieces:
        shape = patches.shape[:3]
        latent[name] = Tokens(patches=vectors.unflatten(0, shape), grid=grid)
        codes[name] = index.unflatten(0, shape).movedim(-1, 2).unflatten(3, grid)
    per_row = [patches.shape[1] * patches.shape[2] for patches, _ in crops.values()]
    sampled = {
        name: spread(_by_row(value, sizes, per_row), sample_tokens)
        for name, value in found.tally.rows.items()
    }
    tally = Tally(sums=found.tally.sums, rows=sampled, moments=found.tally.moments)
    return Latent(crops=latent, codes=codes, aux=found.aux, tally=tally, report=found.report)


def spread(vectors: Tensor, count: int) -> Tensor:
    """`count` of the vectors of each row (B, N, d), evenly spread; all if there are fewer.

    One of each of `count` stretches, at a place that runs through the golden section: equal distances would
    take one column of the grid.
    """
    total = vectors.shape[1]
    if total <= count:
        return vectors
    number = torch.arange(count, device=vectors.device)
    inside = (number * 0.6180339887498949).frac()
    return vectors[:, ((number + inside) * (total / count)).long().clamp(max=total - 1)]


def _by_row(values: Tensor, sizes: list[int], per_row: list[int]) -> Tensor:
    """(all vectors, ...) of all crop sets to (B, vectors of a row, ...)."""
    parts = zip(values.split(sizes), sizes, per_row, strict=True)
    return torch.cat([part.unflatten(0, (size // count, count)) for part, size, count in parts], 1)
