"""The torch reference of `nearest_code`: a float64 screen by matmul, then the definition on the candidates.

The screen scores a block of codes with one float64 matmul. The error of a score has a rigorous bound, so each
code that could be the nearest has a score within a window of the least; on typical data that is one code per
row. Those pairs are evaluated as `nearest_code_distance` defines. Rows and codes beyond the bound (infinite,
or near float64's range) are evaluated against all codes and rows.

The bound. Let x' = x - m and c' = c - m for some center m (weighted: times sqrt(w)), p and q their norms, and
u = 2**-53. The score q^2 - 2 x'.c' + p^2 differs from the defined distance by rounding only:
(D + 4) u (2 p q + q^2) for dot product and norm in any order of summation, 9 u (p + q)^2 for centring and
weighting, (D + 8) u (p + q)^2 for the distance's own sum. As (p + q)^2 <= 2 (p^2 + q^2), they stay below
a (p^2 + q^2) for a = 6 (D + 16) u, which is 1.5 times what is needed. The definition squares before it
weights: the underflow of a square grows with the weight, and a square that could overflow is beyond the
bound.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vtp_core.ops.nearest_code_choice import SearchCase, SearchKernel
from vtp_core.ops.nearest_code_distance import distance_between, widened

UNIT = 2.0**-53
"""Half the distance from 1 to the next float64."""

TINY = 2.0**-1022
"""Largest underflow error of an operation, with flushed denormals."""

RANGE = 2.0**900
"""Squared norm above which the screen could overflow."""

BLOCK_CODES = 4096
BLOCK_SCORES = 2**20
"""Elements of the score matrix at a time."""

BLOCK_PAIRS = 2**20
"""Elements of the differences at a time."""

CENTER_SAMPLE = 64
"""Codes whose median is the center."""

CROWD = 4
"""Codes per row inside the window above which duplicates among the codes are searched for."""


class _Side(NamedTuple):
    """The rows or the codes of a block, ready for the screen.

    Attributes:
        wide: (n, D) float64, from `widened`.
        moved: (n, D) float64, centred and weighted; zeros where the screen's bound does not hold.
        square: (n,) float64, squared norm of `moved`.
        still: (n,) bool, no direction (cosine only): at distance 1 from everything.
        hard: (n,) bool, beyond the bound: evaluated against all.
        void: (n,) bool, has a NaN: never chosen, has no nearest code.
    """

    wide: Tensor
    moved: Tensor
    square: Tensor
    still: Tensor
    hard: Tensor
    void: Tensor


def search(
    vectors: Tensor, codebook: Tensor, *, metric: str, weight: Tensor | None, exact: bool
) -> tuple[Tensor, Tensor]:
    """The whole contract, as `vtp_core.ops.nearest_code_choice.RunSearch` states it.

    Always exact: skipping the evaluation would save no time. Memory beyond inputs and results: a few blocks,
    for any N and K.
    """
    rows, width = vectors.shape
    device = vectors.device
    index = torch.full((rows,), -1, device=device)
    distance = torch.full((rows,), torch.nan, dtype=torch.float64, device=device)
    least = torch.full((rows,), torch.inf, dtype=torch.float64, device=device)  # of the scores, rounded up
    window = 6 * (width + 16) * UNIT
    slack = 8 * (width + 16) * TINY * (1.0 if weight is None else max(1.0, weight.amax().item()))
    center = _center(codebook, metric)
    root = None if weight is None else weight.sqrt()
    for first in range(0, codebook.shape[0], BLOCK_CODES):
        codes = _side(codebook[first : first + BLOCK_CODES], metric, center, root)
        copies: Tensor | None = None
        step = max(1, BLOCK_SCORES // codes.wide.shape[0])
        for start in range(0, rows, step):
            at = slice(start, start + step)
            block = _side(vectors[at], metric, center, root)
            near = _near(block, codes, least[at], window, slack)
            if int(near.sum()) > CROWD * near.shape[0]:
                copies = _copies(codes.wide) if copies is None else copies
                near &= ~copies
            best, found = _nearest(block.wide, codes.wide, near, metric, weight)
            # Blocks run in the order of their codes: only a smaller distance replaces an earlier code.
            better = (found >= 0) & ((index[at] < 0) | (best < distance[at]))
            index[at] = torch.where(better, found + first, index[at])
            distance[at] = torch.where(better, best, distance[at])
    return index, distance.to(torch.promote_types(vectors.dtype, torch.float32))


def _center(codebook: Tensor, metric: str) -> Tensor:
    """(D,) float64 near most codes; any vector is correct, this one keeps the window small."""
    step = max(1, codebook.shape[0] // CENTER_SAMPLE)
    center = widened(codebook[::step][:CENTER_SAMPLE], metric).nanmedian(0).values
    return torch.where(center.abs() < RANGE**0.5, center, 0.0)


def _side(vectors: Tensor, metric: str, center: Tensor, root: Tensor | None) -> _Side:
    wide = widened(vectors, metric)
    moved = wide - center
    square = (moved * moved).sum(-1)
    void = wide.isnan().any(-1)
    far = ~(square < RANGE)
    if root is not None:
        moved = moved * root
        square = (moved * moved).sum(-1)
        far = far | ~(square < RANGE)
    still = (wide == 0).all(-1) if metric == "cosine" else torch.zeros_like(void)
    moved = torch.where(far.unsqueeze(-1), 0.0, moved)
    return _Side(wide, moved, torch.where(far, 0.0, square), still, (far | still) & ~void, void)


def _near(rows: _Side, codes: _Side, least: Tensor, window: float, slack: float) -> Tensor:
    """Which codes could be the nearest of each row: (n, k) bool. Lowers `least` in place."""
    beyond = codes.hard | codes.void
    bias = torch.where(beyond, torch.inf, codes.square * (1 + window))
    scores = torch.addmm(bias, rows.moved, codes.moved.T, alpha=-2)
    torch.minimum(least, scores.amin(1), out=least)
    limit = least + (2 * window * rows.square + slack)
    near = scores.sub_(2 * window * codes.square) <= limit.unsqueeze(1)
    near = near | codes.hard
    # A row of zeros is equally far from all codes: the first one is its nearest.
    order = torch.arange(len(codes.void), device=near.device)
    first = order == torch.where(codes.void, len(order), order).amin()
    near = torch.where(rows.still.unsqueeze(1), first, near | rows.hard.unsqueeze(1))
    return near & ~(rows.void.unsqueeze(1) | codes.void)


def _copies(codes: Tensor) -> Tensor:
    """(k,) bool: codes equal to one with a lower index."""
    _, group = codes.unique(dim=0, return_inverse=True)
    order = torch.arange(len(codes), device=codes.device)
    first = torch.full_like(order, len(codes)).scatter_reduce_(0, group, order, "amin")
    return first[group] != order


def _nearest(x: Tensor, c: Tensor, near: Tensor, metric: str, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """Least distance by the definition over the pairs in `near`, and the lowest code that has it, or -1."""
    row, code = near.nonzero(as_tuple=True)
    step = max(1, BLOCK_PAIRS // x.shape[1])
    parts = [
        distance_between(x[some], c[others], metric, weight)
        for some, others in zip(row.split(step), code.split(step), strict=True)
    ]
    distance = torch.cat(parts)
    real = ~distance.isnan()
    row, code, distance = row[real], code[real], distance[real]
    best = x.new_full((len(x),), torch.inf).scatter_reduce_(0, row, distance, "amin")
    wins = distance == best[row]
    none = len(c)
    found = row.new_full((len(x),), none).scatter_reduce_(0, row[wins], code[wins], "amin")
    return best, torch.where(found == none, -1, found)


def _refuses(case: SearchCase) -> str | None:
    return "needs float64, which mps does not support" if case.device == "mps" else None


def _always(case: SearchCase) -> bool:
    return True


REFERENCE = SearchKernel(name="reference", run=search, refuses=_refuses, suits=_always)
