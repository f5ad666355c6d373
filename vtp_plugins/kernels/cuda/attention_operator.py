"""The operator ``vtp_cuda::attention_forward`` with its shapes and gradient.

Needs the built module and triton, whose kernels make the gradient from the output and the log-sum-exp.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from vtp_core.ops.attention_torch import NORM_EPS
from vtp_plugins.kernels.flops import heads_first_flops
from vtp_plugins.kernels.native.loading import why_missing

_reason = why_missing("_C_cuda")
if _reason is not None:
    raise ImportError(f"vtp_plugins.kernels._C_cuda {_reason}")

_NAME = "vtp_cuda::attention_forward"


def attention_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_norm: Tensor | None,
    k_norm: Tensor | None,
    cos: Tensor | None,
    sin: Tensor | None,
    cu_seqlens: Tensor | None,
    longest: int,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp.

    Args:
        q: (B, H, N, d), or packed (T, H, d).
        k: The same shape and dtype.
        v: The same shape and dtype.
        q_norm: (d,) or None.
        k_norm: (d,) or None.
        cos: (P, d) contiguous or None.
        sin: (P, d) contiguous or None.
        cu_seqlens: (S + 1,) int32 on the device of `q` where sequences begin, or None for the dense layout.
        longest: Tokens of the longest sequence.
        scale: Factor on the scores.

    Returns:
        (..., d) with the heads of a token side by side in memory, and float32 without the last axis.
    """
    out, lse = torch.ops.vtp_cuda.attention_forward(
        q, k, v, q_norm, k_norm, cos, sin, cu_seqlens, longest, scale, NORM_EPS
    )
    return out, lse


def _fake(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    lse = q.new_empty(q.shape[:-1], dtype=torch.float32)
    if q.dim() == 3:
        return q.new_empty(q.shape), lse
    batch, heads, tokens, width = q.shape
    return q.new_empty(batch, tokens, heads, width).transpose(1, 2), lse


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, _, ctx.scale, _ = inputs
    ctx.save_for_backward(*tensors, *output)


def _differentiate(ctx: Any, dout: Tensor, dlse: Tensor) -> tuple[Tensor | None, ...]:
    from vtp_plugins.kernels.triton.attention_operator import attention_backward

    *tensors, out, lse = ctx.saved_tensors
    dq, dk, dv, dq_norm, dk_norm = attention_backward(*tensors, ctx.scale, out, lse, dout, dlse)
    q_norm, k_norm = tensors[3], tensors[4]
    norms = (None if q_norm is None else dq_norm, None if k_norm is None else dk_norm)
    return dq, dk, dv, *norms, None, None, None, None, None, None


torch.library.register_fake(_NAME, _fake)
torch.library.register_autograd(_NAME, _differentiate, setup_context=_save)

register_flop_formula(torch.ops.vtp_cuda.attention_forward)(heads_first_flops)
