"""Sinkhorn-Knopp assignment of teacher rows to prototypes, over all ranks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vtp_plugins.dino.scores import BITS, Scores, blocked, narrowed, tile_elements, within

BLOCK_ELEMENTS = 1 << 22
"""Scores of a block of whole rows: 16 MiB in float32."""

MIN_COLUMNS = 512
"""Least prototypes of a tile of all rows: products with fewer are slow."""

LogSum = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """A Sinkhorn-Knopp assignment: the softmax of the teacher's scores plus `offset`.

    Attributes:
        offset: (K,), the same on every rank.
        normaliser: (n,) logarithm of the sum of exponentials of those scores, for this rank's rows; None if
            it was not found on the way.
    """

    offset: Tensor
    normaliser: Tensor | None


@torch.no_grad()
def sinkhorn(
    teacher: Tensor,
    prototypes: Tensor,
    temperature: float,
    log_sum: LogSum | None = None,
    *,
    iterations: int = 3,
    dtype: torch.dtype = torch.float32,
    elements: int | None = None,
) -> Assignment:
    """Assigns teacher rows to prototypes.

    An iteration gives all prototypes, then all rows, the same total. The last one ends with the rows, so the
    result is a softmax over prototypes and only one number a prototype has to be kept.

    Args:
        teacher: (n, E) unit vectors of this rank, float32 or wider; n may be 0 and differ between ranks.
        prototypes: (K, E), same dtype or `dtype`.
        temperature: Above 0.
        log_sum: (K,) of each rank -> the logarithm of the sum of exponentials over ranks; None if this rank
            is alone, which saves time and finds the normaliser.
        iterations: Number of iterations, at least 1.
        dtype: What products are made in.
        elements: Scores of a tile of all rows, or of a block of whole rows over ranks; chosen if None.

    Source:
        Caron et al. 2020 (SwAV), section 3.1; DINOv2 ends with the rows, as here.
    """
    with torch.autocast(teacher.device.type, enabled=False):
        rows, narrow = narrowed(teacher, temperature, dtype), prototypes.to(dtype)
        if log_sum is None:
            found = _by_prototypes(rows, narrow, teacher, iterations, elements)
            if found is not None:
                return found
        return _by_rows(rows, narrow, teacher, iterations, log_sum or (lambda x: x), elements)


def _by_prototypes(
    rows: Tensor, prototypes: Tensor, like: Tensor, iterations: int, elements: int | None
) -> Assignment | None:
    """Factors of rows and of prototypes on a matrix of exponentials that is made anew in each iteration.

    All rows of a few prototypes at a time: these get their factors, the rows' next totals grow, in one pass.
    Other ranks would have to be asked at every tile.

    Returns:
        None if a total is near the end of float32's range, which takes prototypes far from unit length.
    """
    count = max(len(rows), 1)
    if elements is None:
        columns = max(tile_elements(like.device) // count, MIN_COLUMNS)
    else:
        columns = max(elements // count, 1)
    tiles = list(blocked(len(prototypes), columns))
    scores = Scores(rows, prototypes, like, tiles)
    totals, row_totals = like.new_ones(len(prototypes)), like.new_ones(len(rows))
    for iteration in range(iterations if len(rows) else 0):
        factors, row_totals = 1 / row_totals, torch.zeros_like(row_totals)
        for tile in tiles:
            block = scores.tile(tile)
            if not iteration or len(tiles) > 1:
                block.exp2_()
            totals[tile] = block.T @ factors
            row_totals.addmv_(block, 1 / totals[tile])
        if not (within(totals) and within(row_totals)):
            return None
    return Assignment(offset=-totals.log(), normaliser=row_totals.log())


def _by_rows(
    rows: Tensor,
    prototypes: Tensor,
    like: Tensor,
    iterations: int,
    log_sum: LogSum,
    elements: int | None,
) -> Assignment:
    """In the log domain, a few whole rows at a time: ranks meet once in an iteration, any scores will do."""
    size = max((BLOCK_ELEMENTS if elements is None else elements) // max(len(prototypes), 1), 1)
    floor = math.log(torch.finfo(like.dtype).tiny)
    everything = [slice(0, len(prototypes))]
    offset: Tensor | None = None  # in nats
    for _ in range(iterations):
        columns = like.new_full((len(prototypes),), -torch.inf if offset is None else 0.0)
        for part in blocked(len(rows), size):
            shift = None if offset is None else offset * BITS
            block = Scores(rows[part], prototypes, like, everything, shift).tile(everything[0])
            if offset is None:
                columns = torch.logaddexp2(columns, _log_sum_of_columns(block))
            else:  # the rows' shares of each prototype: their sum over rows is what is off
                share = block.sub_(block.amax(1, keepdim=True)).exp2_()
                columns.addmv_(share.T, 1 / share.sum(1))
        if offset is None:
            offset = -log_sum(columns / BITS)
        else:
            offset = offset - log_sum(columns.log()).clamp_min(floor)
    assert offset is not None
    return Assignment(offset=offset, normaliser=None)


def _log_sum_of_columns(block: Tensor) -> Tensor:
    """Logarithm of the sum of each column's exponentials, in bits; uses the block up."""
    greatest = block.amax(0)
    return block.sub_(greatest).exp2_().sum(0).log2_() + greatest
