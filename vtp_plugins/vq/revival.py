"""Revival of dead codes: they take vectors of the data, and their statistics begin again."""

from __future__ import annotations

import torch
from torch import Tensor

from vtp_core.math.row_noise import row_seeds
from vtp_plugins.vq.quantizer import finite


def revived(dead: Tensor, candidates: Tensor, index: int) -> tuple[Tensor, Tensor, Tensor]:
    """Which codes take which vectors; the same on all ranks.

    Args:
        dead: (K,) bool.
        candidates: (N, D) vectors of the step; those that are not finite are not taken.
        index: The step, which seeds the choice.

    Returns:
        M = min(N, K) different codes, the dead ones first, (M,) int64; which of them are revived, (M,) bool;
        and the vector of each, (M, D).
    """
    codes, most = torch.arange(len(dead), device=dead.device), min(len(candidates), len(dead))
    before = dead.cumsum(0)  # dead codes up to each one
    place = torch.where(dead, before - 1, before[-1] + codes - before)
    places = torch.empty_like(codes).scatter_(0, place, codes)[:most]
    usable = finite(candidates)
    numbers = torch.arange(len(candidates), device=candidates.device)
    last = torch.iinfo(torch.int64).max
    order = row_seeds(index, numbers).masked_fill(~usable, last).argsort()[:most]
    return places, codes[:most] < torch.minimum(before[-1], usable.sum()), candidates[order]
