"""Revival of dead codes: they take vectors of the data, and their statistics begin again."""

from __future__ import annotations

import torch
from torch import Tensor

from vtp_core.math.row_noise import row_rand, row_seeds


def revived(dead: Tensor, candidates: Tensor, index: int) -> tuple[Tensor, Tensor]:
    """Which codes take which vectors; the same on all ranks.

    Args:
        dead: (K,) bool.
        candidates: (N, D) vectors of the step; those that are not finite are not taken.
        index: The step, which seeds the choice.

    Returns:
        (K,) bool, the codes that are revived, at most N; and (K, D), the vector of each of them.
    """
    numbers = torch.arange(len(candidates), device=candidates.device)
    order = row_rand(row_seeds(index, numbers)).masked_fill(~candidates.isfinite().all(-1), 2.0).argsort()
    usable = candidates.isfinite().all(-1).sum()
    rank = dead.long().cumsum(0) - 1  # of each dead code among the dead
    taken = dead & (rank < usable)
    if not len(candidates):
        return taken, candidates.new_zeros(len(dead), candidates.shape[1])
    return taken, candidates[order[rank.clamp(0, len(candidates) - 1)]]
