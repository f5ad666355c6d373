"""`vit_attention` by Triton kernels: norm and rotation in one pass, flash attention, gradients of all."""

from __future__ import annotations

import torch
from torch import Tensor

from vtp_core.ops.attention_choice import AttentionCase, AttentionKernel, Rope
from vtp_plugins.kernels.gpu import outdated, unless_measured
from vtp_plugins.kernels.rotary_gradient import refuse_rotary_gradient
from vtp_plugins.kernels.triton.availability import obstacle
from vtp_plugins.kernels.triton.configuration import HEAD_WIDTHS

_MISSING = obstacle()
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def run(
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
    """The contract of `vtp_core.ops.attention.vit_attention`; any strides.

    Raises:
        UsageError: The gradient of the rotary tables is required.
    """
    from vtp_plugins.kernels.triton.attention_operator import attention_forward

    refuse_rotary_gradient("triton", rope)
    cos, sin = (None, None) if rope is None else rope
    out, lse = attention_forward(q, k, v, q_norm, k_norm, cos, sin, cu_seqlens, scale)
    return out, lse if return_lse else None


def _refuses(case: AttentionCase) -> str | None:
    if case.dtype not in _DTYPES:
        return f"has no {str(case.dtype).removeprefix('torch.')}"
    narrowest, widest = HEAD_WIDTHS
    if not narrowest <= case.width <= widest:
        return f"has head widths {narrowest} to {widest}, not {case.width}"
    return outdated(case.index)


def _missing() -> str | None:
    return _MISSING


KERNEL = AttentionKernel(
    name="triton",
    run=run,
    refuses=_refuses,
    suits=unless_measured,
    device="cuda",
    missing=_missing,
    packs=True,
)
