"""Sinkhorn-Knopp assignment of teacher rows to prototypes, over all ranks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vtp_plugins.dino.scores import BITS, Scores, blocked, narrowed, tile_elements, within

BLOCK_ELEMENTS = 1 << 22
"""Scores of a block of whole rows, 16 MiB in float32."""

MIN_COLUMNS = 512
"""Fewest prototypes of a tile of all rows; products with fewer are slow."""

LogSum = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """A Sinkhorn-Knopp assignment: the softmax of the teacher's scores plus `offset`.

    Attributes:
        offset: (K,), the same on every rank.
        normalizer: (n,) logsumexp of those scores for this rank's rows; None if it was not computed.
    """

    offset: Tensor
    normalizer: Tensor | None


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

    An iteration normalises prototypes, then rows, to equal totals. As the last one ends with rows, the result
    is a softmax over prototypes with one offset per prototype.

    Args:
        teacher: (n, E) unit vectors of this rank, float32 or wider; n may be 0 and differ between ranks.
        prototypes: (K, E), same dtype or `dtype`.
        temperature: Above 0.
        log_sum: (K,) of each rank -> their logsumexp over ranks; None for a single rank, which is faster and
            computes the normalizer.
        iterations: Number of iterations, at least 1.
        dtype: Dtype of matrix products.
        elements: Scores of a tile or block; None chooses it.

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
    """Sinkhorn-Knopp on exponentials, recomputed in each iteration, in tiles of all rows.

    One pass over the tiles computes the prototypes' factors and the rows' next totals. Several ranks would
    have to communicate at every tile.

    Returns:
        None if a total is near the limits of float32, as with prototypes far from unit length.
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
    return Assignment(offset=-totals.log(), normalizer=row_totals.log())


def _by_rows(
    rows: Tensor,
    prototypes: Tensor,
    like: Tensor,
    iterations: int,
    log_sum: LogSum,
    elements: int | None,
) -> Assignment:
    """Sinkhorn-Knopp in the log domain, in blocks of whole rows; ranks communicate once per iteration."""
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
            else:  # column sums of the row-normalised matrix: what is still to be corrected
                weights = block.sub_(block.amax(1, keepdim=True)).exp2_()
                columns.addmv_(weights.T, 1 / weights.sum(1))
        if offset is None:
            offset = -log_sum(columns / BITS)
        else:
            offset = offset - log_sum(columns.log()).clamp_min(floor)
    assert offset is not None
    return Assignment(offset=offset, normalizer=None)


def _log_sum_of_columns(block: Tensor) -> Tensor:
    """Logsumexp of each column, in bits; overwrites the block."""
    greatest = block.amax(0)
    return block.sub_(greatest).exp2_().sum(0).log2_() + greatest
