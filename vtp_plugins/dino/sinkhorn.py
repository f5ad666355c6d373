"""Sinkhorn-Knopp assignment of teacher rows to prototypes, over all ranks, in the log domain."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vtp_plugins.dino.loss import Blocks, blocked, scores


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
    rows = (Blocks.whole_rows(len(prototypes)) if blocks is None else blocks).rows
    with torch.autocast(teacher.device.type, enabled=False):
        narrow = prototypes.to(dtype)
        kept = scores(teacher.to(dtype), narrow, temperature) if len(teacher) <= rows else None
        offset: Tensor | None = None
        for _ in range(iterations):
            columns = teacher.new_full((len(prototypes),), -torch.inf)
            for part in blocked(len(teacher), rows):
                block = scores(teacher[part].to(dtype), narrow, temperature) if kept is None else kept
                if offset is not None:
                    block = block - (block + offset).logsumexp(1, keepdim=True)
                columns = torch.logaddexp(columns, block.logsumexp(0))
            offset = -log_sum(columns)
    assert offset is not None
    return offset
