"""Initial codebooks: rows of the data, or k-means++.

Source: Arthur and Vassilvitskii 2007 (k-means++); drawn in rounds as in Bahmani et al. 2012 (k-means||), so
that 16,384 codes take some tens of searches instead of 16,384.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from vtp_core.math.row_noise import row_rand, row_randn, row_seeds
from vtp_core.ops import code_statistics, nearest_code

_log = logging.getLogger(__name__)

ROUNDS = 16
"""Rounds in which k-means++ draws its seeds, and iterations of Lloyd's algorithm that follow."""


def data_rows(vectors: Tensor, codes: int, seed: int = 0) -> Tensor:
    """Different rows of the data as codes (K, D); with less data than codes, noisy copies fill up.

    Args:
        vectors: (N, D), N >= 1; rows that are not finite are left out.
        codes: K.
        seed: Of the choice.

    Raises:
        ValueError: No row is finite.
    """
    vectors = finite_rows(vectors)
    order = _uniform(len(vectors), seed, vectors.device).argsort()
    return _filled(vectors[order[:codes]], vectors, codes, seed)


def kmeans(vectors: Tensor, codes: int, seed: int = 0, iterations: int = ROUNDS) -> Tensor:
    """Codes (K, D) by k-means++ seeds and Lloyd's iterations; arguments as of `data_rows`."""
    vectors = finite_rows(vectors)
    centers = vectors[_uniform(len(vectors), seed, vectors.device).argmax()][None]
    distance = nearest_code(vectors, centers)[1]
    for number in range(1, ROUNDS + 1):
        missing = min(codes, len(vectors)) - len(centers)
        if missing <= 0 or not bool((distance > 0).any()):
            break
        wanted = -(-missing // (ROUNDS + 1 - number))
        # Gumbel's trick: the largest keys are a sample without replacement, with weights d^2.
        gumbel = -torch.log(-torch.log(_uniform(len(vectors), seed + number, vectors.device)))
        keys = torch.where(distance > 0, distance.log() + gumbel, -torch.inf)
        drawn = keys.topk(min(wanted, len(vectors)))
        new = vectors[drawn.indices[drawn.values > -torch.inf]]
        centers = torch.cat([centers, new])
        distance = torch.minimum(distance, nearest_code(vectors, new)[1])
    for _ in range(iterations if len(vectors) > len(centers) else 0):
        counts, sums = code_statistics(vectors, nearest_code(vectors, centers)[0], len(centers))
        means = (sums / counts.clamp(min=1)[:, None]).to(vectors.dtype)
        centers = torch.where((counts > 0)[:, None], means, centers)
    return _filled(centers, vectors, codes, seed)


def finite_rows(vectors: Tensor) -> Tensor:
    """The rows that are finite.

    Raises:
        ValueError: There is none.
    """
    vectors = vectors[vectors.isfinite().all(-1)]
    if not len(vectors):
        raise ValueError("no vector of the data is finite, so no codebook can be initialised from it")
    return vectors


def _uniform(count: int, seed: int, device: torch.device) -> Tensor:
    """(count,) numbers in (0, 1), the same on every rank and device."""
    rows = torch.arange(count, device=device)
    return row_rand(row_seeds(seed, rows)).clamp(2.0**-25, 1 - 2.0**-24)


def _filled(centers: Tensor, vectors: Tensor, codes: int, seed: int) -> Tensor:
    """`centers`, and rows of the data with a thousandth of its deviation as noise up to K."""
    missing = codes - len(centers)
    if missing <= 0:
        return centers[:codes].clone()
    if len(vectors) < codes:
        _log.warning(
            "bottleneck: %d vectors for %d codes, so copies of vectors fill the codebook; raise "
            "calibration_rows, sample_rows or sample_tokens",
            len(vectors),
            codes,
        )
    numbers = torch.arange(missing, device=vectors.device)
    noise = row_randn(row_seeds(seed + 1, numbers), vectors.shape[1], dtype=vectors.dtype)
    spread = (vectors - vectors.mean(0)).square().mean().sqrt()
    return torch.cat([centers, vectors[numbers % len(vectors)] + 1e-3 * spread * noise])
