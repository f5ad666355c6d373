"""VA-VAE's two margin losses between token sets (arXiv 2501.01423, section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def marginal_cosine(tokens: Tensor, target: Tensor, margin: float) -> Tensor:
    """``relu(1 - margin - cos(token, target))`` of each token (eq. 4), float32 or wider.

    Args:
        tokens: (..., N, D).
        target: (..., N, D).
        margin: m1, in [0, 2].

    Returns:
        (..., N).
    """
    return F.relu(1 - margin - (_unit(tokens) * _unit(target)).sum(-1))


def marginal_distances(tokens: Tensor, target: Tensor, margin: float) -> Tensor:
    """Mean of ``relu(|cos(t_i, t_j) - cos(f_i, f_j)| - margin)`` over all pairs of a set (eq. 5).

    Args:
        tokens: (..., N, D).
        target: (..., N, E); the widths may differ.
        margin: m2, in [0, 2].

    Returns:
        (...), float32 or wider.
    """
    own, theirs = _unit(tokens), _unit(target)
    with torch.autocast(tokens.device.type, enabled=False):
        gap = (own @ own.mT - theirs @ theirs.mT).abs()
    return F.relu(gap - margin).mean((-2, -1))


def _unit(tokens: Tensor) -> Tensor:
    return F.normalize(tokens.to(torch.promote_types(tokens.dtype, torch.float32)), dim=-1, eps=1e-6)
