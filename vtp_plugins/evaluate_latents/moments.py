"""Moments up to the fourth of vectors, by group of images, merged without loss of precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vtp_core.evaluation.jackknife import parts_of
from vtp_core.math.moments import TILE, Moments, merge

GROUPS = 8
"""Parts of a set, by hash of the key, that the jackknife leaves out in turn."""


@dataclass(frozen=True, kw_only=True)
class HigherMoments:
    """Moments of N vectors of width D; float64.

    Attributes:
        moments: Count, mean and scatter (D, D).
        third: (D,), the sum of (x - mean)^3.
        fourth: (D,), the sum of (x - mean)^4.

    Source:
        Pébay 2008, arbitrary-order moments in one pass.
    """

    moments: Moments
    third: Tensor
    fourth: Tensor

    @classmethod
    def of(cls, vectors: Tensor) -> HigherMoments:
        """Moments of finite vectors (N, D) of any floating dtype."""
        tiles = vectors.split(max(TILE // max(vectors.shape[1], 1), 1)) if len(vectors) else [vectors]
        return cls.merged([_exact(tile.double()) for tile in tiles])

    @classmethod
    def merged(cls, parts: Sequence[HigherMoments]) -> HigherMoments:
        """The moments of all vectors of the parts together."""
        moments = merge([part.moments for part in parts])
        third, fourth = zip(*(part._about(moments.mean) for part in parts), strict=True)
        return cls(moments=moments, third=torch.stack(third).sum(0), fourth=torch.stack(fourth).sum(0))

    @property
    def variance(self) -> Tensor:
        """Population variance by channel, (D,)."""
        return self.moments.scatter.diagonal() / self.moments.count.clamp(min=1)

    @property
    def excess_kurtosis(self) -> Tensor:
        """By channel, (D,): 0 of a Gaussian; NaN of a constant channel."""
        return self.fourth / self.moments.count.clamp(min=1) / self.variance.square() - 3

    def _about(self, mean: Tensor) -> tuple[Tensor, Tensor]:
        """Third and fourth moments about another mean (D,)."""
        shift, second, count = self.moments.mean - mean, self.moments.scatter.diagonal(), self.moments.count
        third = self.third + 3 * shift * second + count * shift**3
        fourth = self.fourth + 4 * shift * self.third + 6 * shift**2 * second + count * shift**4
        return third, fourth


class GroupedMoments:
    """Moments of vectors of images, one for each group of images.

    Args:
        width: Numbers D of a vector.
        device: Where the vectors are.
    """

    def __init__(self, width: int, device: torch.device) -> None:
        self.groups = [HigherMoments.of(torch.zeros(0, width, device=device))] * GROUPS

    def add(self, vectors: Tensor, keys: Sequence[str]) -> None:
        """Adds vectors (B, P, D) of images with these keys."""
        group = parts_of(keys, GROUPS)
        for number in group.unique().tolist():
            own = vectors[(group == number).to(vectors.device)].flatten(0, 1)
            self.groups[number] = HigherMoments.merged([self.groups[number], HigherMoments.of(own)])

    def rows(self, name: str) -> dict[str, Tensor]:
        """One row of a rank's state: ``name.count`` (1, G), ``name.mean`` (1, G, D) and so on."""
        parts = {
            "count": [group.moments.count for group in self.groups],
            "mean": [group.moments.mean for group in self.groups],
            "scatter": [group.moments.scatter for group in self.groups],
            "third": [group.third for group in self.groups],
            "fourth": [group.fourth for group in self.groups],
        }
        return {f"{name}.{part}": torch.stack(values)[None].cpu() for part, values in parts.items()}


def merged_groups(rows: Mapping[str, Tensor], name: str) -> list[HigherMoments]:
    """The moments of each group that has vectors, over all ranks, from `GroupedMoments.rows`."""
    groups = []
    for number in range(GROUPS):
        of_ranks = [
            HigherMoments(
                moments=Moments(
                    count=rows[f"{name}.count"][rank, number],
                    mean=rows[f"{name}.mean"][rank, number],
                    scatter=rows[f"{name}.scatter"][rank, number],
                ),
                third=rows[f"{name}.third"][rank, number],
                fourth=rows[f"{name}.fourth"][rank, number],
            )
            for rank in range(len(rows[f"{name}.count"]))
        ]
        groups.append(HigherMoments.merged(of_ranks))
    return [group for group in groups if group.moments.count > 0]


def leave_one_out(groups: Sequence[HigherMoments]) -> list[HigherMoments]:
    """The moments of all groups together, then of all but each; of one group only the first."""
    rests = ([*groups[:left], *groups[left + 1 :]] for left in range(len(groups)) if len(groups) > 1)
    return [HigherMoments.merged(parts) for parts in (groups, *rests)]


def _exact(rows: Tensor) -> HigherMoments:
    moments = Moments.of(rows)
    centered = rows - moments.mean
    square = centered.square()
    third, fourth = (square * centered).sum(0), square.square().sum(0)
    return HigherMoments(moments=moments, third=third, fourth=fourth)
