"""The Kozachenko-Leonenko estimator of differential entropy."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def unit(x: Tensor, eps: float) -> Tensor:
    """Unit vectors (..., D), float32 or wider; a zero vector stays zero."""
    return F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1, eps=eps)


def spread(rows: Tensor, pool: Tensor, own: Tensor, eps: float) -> Tensor:
    """Minus the logarithm of each row's distance to its nearest other row, in float32 or wider.

    Args:
        rows: (n, D) unit vectors.
        pool: (m, D) unit vectors, the rows among them.
        own: (n,) int64, index of each row in the pool, which is excluded.
        eps: Lower bound of distances: equal rows give a finite loss and no gradient.

    Returns:
        (n,); zeros if the pool holds a single row.

    Source:
        Sablayrolles et al. 2019, eq. 6; DINOv2.
    """
    if len(pool) < 2:
        return rows.sum(1) * 0
    with torch.autocast(rows.device.type, enabled=False):
        with torch.no_grad():
            cosines = (rows @ pool.T).scatter_(1, own[:, None], -torch.inf)
            nearest = cosines.argmax(1)
        squared = (rows - pool[nearest]).square().sum(1)
        return -((squared + eps**2).sqrt() + eps).log()
