"""Precision and recall of a set of features: whether samples lie within the neighbourhoods of another set."""

from __future__ import annotations

import torch
from torch import Tensor

TILE = 1 << 23
"""Distances that are held at once."""
ROUNDING = 1e-12
"""Squared distances below this part of the squared norms are zero: rows that are equal."""


def precision_and_recall(rows: Tensor, reference: Tensor, neighbors: int = 3) -> tuple[Tensor, Tensor]:
    """Improved precision and recall.

    A row lies within a set if it is no further from one of its rows than that row's `neighbors`-th nearest
    neighbour in the set, without itself.

    Args:
        rows: (n, C) features of samples.
        reference: (m, C) features of real images.
        neighbors: k.

    Returns:
        (n,) bool, which samples lie within the reference: their mean is the precision; and (m,) bool, which
        reference images lie within the samples: the recall.

    Raises:
        ValueError: A set has no more rows than `neighbors`.

    Source:
        Kynkaanniemi et al. 2019, section 3, equations 1 and 2.
    """
    if min(len(rows), len(reference)) <= neighbors:
        raise ValueError(f"{neighbors} neighbours need {neighbors + 1} rows of each set")
    return (
        _within(rows, reference, _radii(reference, neighbors)),
        _within(reference, rows, _radii(rows, neighbors)),
    )


def _radii(rows: Tensor, neighbors: int) -> Tensor:
    """(n,) squared distance to the `neighbors`-th nearest other row."""
    found = []
    for start in range(0, len(rows), tile := max(TILE // len(rows), 1)):
        part = rows[start : start + tile]
        distance = _squared(part, rows)
        own = torch.arange(len(part), device=rows.device)
        distance[own, own + start] = torch.inf
        found.append(distance.kthvalue(neighbors, dim=1).values)
    return torch.cat(found)


def _within(rows: Tensor, others: Tensor, radii: Tensor) -> Tensor:
    tile = max(TILE // len(others), 1)
    return torch.cat([(_squared(part, others) <= radii).any(1) for part in rows.split(tile)])


def _squared(rows: Tensor, others: Tensor) -> Tensor:
    """(n, m) squared distances, float64."""
    x, y = rows.double(), others.double()
    norms = x.square().sum(1)[:, None] + y.square().sum(1)
    squared = norms - 2 * (x @ y.T)
    return torch.where(squared < ROUNDING * norms, 0.0, squared)
