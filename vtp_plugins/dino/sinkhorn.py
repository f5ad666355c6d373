"""Sinkhorn-Knopp assignment of teacher rows to prototypes, over all ranks, in the log domain."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from vtp_plugins.dino.loss import Blocks, blocked, narrowed, scores


@torch.no_grad()
def sinkhorn_offset(
    teacher: Tensor,
    prototypes: Tensor,
    temperature: float,
    log_sum: Callable[[Tensor], Tensor],
    *,
    iterations: int = 3,
    dtype: torch.dtype = torch.float32,
    blocks: Blocks | None = None,
) -> Tensor:
    """What has to be added to the teacher's scores for their softmax to be the Sinkhorn-Knopp assignment.

    An iteration gives all prototypes, then all rows, the same total. The last one ends with the rows, so the
    result is a softmax over prototypes and only one number a prototype has to be kept.

    Args:
        teacher: (n, E) unit vectors of this rank, float32 or wider; n may be 0 and differ between ranks.
        prototypes: (K, E), same dtype.
        temperature: Above 0.
        log_sum: (K,) of each rank -> the logarithm of the sum of exponentials over ranks.
        iterations: Number of iterations.
        dtype: What products are made in.
        blocks: How scores are cut; only its rows count.

    Returns:
        (K,), the same on every rank.

    Source:
        Caron et al. 2020 (SwAV), section 3.1; DINOv2 ends with the rows, as here.
    """
    size = (Blocks.whole_rows(len(prototypes)) if blocks is None else blocks).rows
    floor = math.log(torch.finfo(teacher.dtype).tiny)
    with torch.autocast(teacher.device.type, enabled=False):
        rows, narrow = narrowed(teacher, temperature, dtype), prototypes.to(dtype)
        offset: Tensor | None = None
        for _ in range(iterations):
            columns = teacher.new_full((len(prototypes),), -torch.inf if offset is None else 0.0)
            for part in blocked(len(rows), size):
                block = scores(rows[part], narrow, offset)
                if offset is None:
                    columns = torch.logaddexp(columns, block.logsumexp(0))
                else:  # the rows' shares of each prototype: their sum over rows is what is off
                    share = block.sub_(block.amax(1, keepdim=True)).exp_()
                    columns.addmv_(share.T, 1 / share.sum(1))
            if offset is None:
                offset = -log_sum(columns)
            else:
                offset = offset - log_sum(columns.log()).clamp_min(floor)
    assert offset is not None
    return offset
