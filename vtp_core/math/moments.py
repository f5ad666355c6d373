"""Count, mean and scatter of vectors, merged without loss of precision.

Source: Chan, Golub and LeVeque 1983, the pairwise update of means and sums of squares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils import _pytree

TILE = 1 << 22
"""Numbers that are widened to float64 at once."""


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Moments of N vectors of width D; float64.

    Attributes:
        count: Scalar N.
        mean: (D,); zeros if N is 0.
        scatter: (D, D), the sum of (x - mean)(x - mean)^T; or (D,), its diagonal.
    """

    count: Tensor
    mean: Tensor
    scatter: Tensor

    @classmethod
    def of(cls, vectors: Tensor, *, diagonal: bool = False) -> Moments:
        """Moments of vectors (..., D) of any floating dtype; vectors that are not finite are left out."""
        rows = vectors.detach().flatten(0, -2)
        tiles = rows.split(max(TILE // max(rows.shape[1], 1), 1)) if len(rows) else ()
        parts = [_moments(tile.double(), diagonal) for tile in tiles]
        return merge(parts) if parts else _moments(rows.double(), diagonal)

    @property
    def covariance(self) -> Tensor:
        """Unbiased covariance (D, D), or variances (D,); zeros of fewer than two vectors."""
        return self.scatter / (self.count - 1).clamp(min=1)

    def about(self, mean: Tensor) -> Tensor:
        """The scatter about another mean (D,)."""
        shift = self.mean - mean
        square = shift.square() if self.scatter.ndim == 1 else torch.outer(shift, shift)
        return self.scatter + self.count * square


def merge(parts: Sequence[Moments]) -> Moments:
    """The moments of all vectors of the parts together."""
    count = torch.stack([part.count for part in parts]).sum(0)
    weighted = torch.stack([part.count * part.mean for part in parts]).sum(0)
    mean = weighted / count.clamp(min=1)
    scatter = parts[0].about(mean)
    for part in parts[1:]:
        scatter = scatter + part.about(mean)
    return Moments(count=count, mean=mean, scatter=scatter)


def _moments(rows: Tensor, diagonal: bool) -> Moments:
    kept = rows.isfinite().all(-1, keepdim=True)
    rows = torch.where(kept, rows, 0)
    count = kept.sum().to(rows.dtype)
    mean = rows.sum(0) / count.clamp(min=1)
    centered = torch.where(kept, rows - mean, 0)
    scatter = centered.square().sum(0) if diagonal else centered.T @ centered
    return Moments(count=count, mean=mean, scatter=scatter)


_pytree.register_dataclass(Moments)
