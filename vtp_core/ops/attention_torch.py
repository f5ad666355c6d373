"""The torch implementations of `vit_attention`: the reference, plain matmuls, and torch's own SDPA.

All three normalise and rotate with the same functions and then differ only in the attention proper.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from vtp_core.ops.attention_choice import AttentionCase, AttentionKernel, Rope

NORM_EPS = 1e-5
"""Epsilon of the query and key norm, as in the published VTP models."""

MATMUL_TOKENS = 1500
"""Longest sequence for which ``auto`` takes plain matmuls on a CPU below float32: measured 2 to 9 x faster
than SDPA forward and backward up to here; beyond, the score matrix costs too much memory."""

_Dense = Callable[[Tensor, Tensor, Tensor, float, bool], tuple[Tensor, Tensor | None]]


def accumulation(dtype: torch.dtype) -> torch.dtype:
    """Dtype for sums over values of `dtype`: float32, or float64 for float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def rms_norm(x: Tensor, weight: Tensor, eps: float = NORM_EPS) -> Tensor:
    """Root-mean-square norm over the last axis (Zhang and Sennrich, 2019).

    Args:
        x: (..., d) floating point.
        weight: (d,).
        eps: Added to the mean square.

    Returns:
        (..., d) in the dtype of `x`; statistics in float32, rounded before the weight multiplies.
    """
    wide = accumulation(x.dtype)
    if x.dtype == weight.dtype == wide:
        return F.rms_norm(x, weight.shape, weight, eps)
    unit = F.rms_norm(x.to(wide), weight.shape, None, eps)
    return (unit.to(x.dtype) * weight).to(x.dtype)


def rotate(x: Tensor, rope: Rope) -> Tensor:
    """Rotates the last P tokens by their positions; those before (class token) stay.

    The first half of the head's channels pairs with the second half. Everything, the tokens that stay
    included, is rounded to the dtype of the tables, as the published model does.

    Args:
        x: (..., N, d).
        rope: Tables (P, d), P <= N.

    Returns:
        (..., N, d) in the dtype of `x`.
    """
    prefix = x.shape[-2] - rope.cos.shape[-2]
    rounded = x.to(rope.cos.dtype)
    still, moving = rounded[..., :prefix, :], rounded[..., prefix:, :]
    first, second = moving.chunk(2, dim=-1)
    moved = moving * rope.cos + torch.cat((-second, first), dim=-1) * rope.sin
    return (torch.cat((still, moved), dim=-2) if prefix else moved).to(x.dtype)


def _masked(scores: Tensor, causal: bool) -> Tensor:
    """Scores (..., N, N) of queries and keys; with `causal`, of later keys minus infinity."""
    if not causal:
        return scores
    later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
    return scores.masked_fill(later, -torch.inf)


def _attend_reference(
    q: Tensor, k: Tensor, v: Tensor, scale: float, lse: bool, *, causal: bool = False
) -> tuple[Tensor, Tensor | None]:
    wide = accumulation(q.dtype)
    scores = _masked((q.to(wide) @ k.to(wide).transpose(-1, -2)) * scale, causal)
    out = (scores.softmax(-1) @ v.to(wide)).to(q.dtype)
    return out, scores.logsumexp(-1).float() if lse else None


def _attend_matmul(
    q: Tensor, k: Tensor, v: Tensor, scale: float, lse: bool, *, causal: bool = False
) -> tuple[Tensor, Tensor | None]:
    scores = _masked((q * scale) @ k.transpose(-1, -2), causal)
    return scores.softmax(-1) @ v, scores.float().logsumexp(-1) if lse else None


def _attend_sdpa(
    q: Tensor, k: Tensor, v: Tensor, scale: float, lse: bool, *, causal: bool = False
) -> tuple[Tensor, Tensor | None]:
    return F.scaled_dot_product_attention(q, k, v, scale=scale, is_causal=causal), None


def _runs(lengths: list[int]) -> Iterator[tuple[int, int]]:
    """Sequences and length of each run of neighbours of one length."""
    for length, run in groupby(lengths):
        yield len(list(run)), length


def _packed(
    attend: _Dense, q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, scale: float, lse: bool
) -> tuple[Tensor, Tensor | None]:
    """(T, H, d) by `attend`, neighbours of one length as one batch."""
    outs, lses = [], []
    start = 0
    for count, length in _runs(cu_seqlens.diff().tolist()):
        stop = start + count * length
        q_run, k_run, v_run = (
            x[start:stop].view(count, length, *x.shape[1:]).transpose(1, 2) for x in (q, k, v)
        )
        start = stop
        if not length:
            continue
        out, part_lse = attend(q_run, k_run, v_run, scale, lse)
        outs.append(out.transpose(1, 2).flatten(0, 1))
        if part_lse is not None:
            lses.append(part_lse.transpose(1, 2).flatten(0, 1))
    if not outs:
        return q * 0, q.new_zeros(q.shape[:2], dtype=torch.float32) if lse else None
    return torch.cat(outs), torch.cat(lses) if lse else None


def _run(
    attend: _Dense,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    q_norm: Tensor | None,
    k_norm: Tensor | None,
    rope: Rope | None,
    cu_seqlens: Tensor | None,
    scale: float,
    return_lse: bool,
) -> tuple[Tensor, Tensor | None]:
    if q_norm is not None:
        q = rms_norm(q, q_norm)
    if k_norm is not None:
        k = rms_norm(k, k_norm)
    if rope is not None and cu_seqlens is None:
        q, k = rotate(q, rope), rotate(k, rope)
    elif rope is not None:
        q, k = (rotate(x.transpose(0, 1), rope).transpose(0, 1) for x in (q, k))
    if cu_seqlens is None:
        return attend(q, k, v, scale, return_lse)
    return _packed(attend, q, k, v, cu_seqlens, scale, return_lse)


def _can(case: AttentionCase) -> str | None:
    return None


def _always(case: AttentionCase) -> bool:
    return True


def _matmul_suits(case: AttentionCase) -> bool:
    below_float32 = case.dtype in (torch.bfloat16, torch.float16)
    return case.lse or (case.device == "cpu" and below_float32 and case.tokens <= MATMUL_TOKENS)


def _sdpa_refuses(case: AttentionCase) -> str | None:
    return "gives no log-sum-exp" if case.lse else None


def _kernel(
    name: str,
    attend: Callable[..., tuple[Tensor, Tensor | None]],
    refuses: Callable[[AttentionCase], str | None],
    suits: Callable[[AttentionCase], bool],
) -> AttentionKernel:
    causal = partial(_run, partial(attend, causal=True))
    return AttentionKernel(name=name, run=partial(_run, attend), refuses=refuses, suits=suits, causal=causal)


TORCH_KERNELS: tuple[AttentionKernel, ...] = (
    _kernel("matmul", _attend_matmul, _can, _matmul_suits),
    _kernel("sdpa", _attend_sdpa, _sdpa_refuses, _always),
    _kernel("reference", _attend_reference, _can, _always),
)
"""In the order in which ``auto`` asks them."""
