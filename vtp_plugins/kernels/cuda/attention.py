"""`vit_attention` with the forward in CUDA C++ and the backward of the Triton kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from vtp_core.ops.attention_choice import AttentionCase, AttentionKernel, Rope
from vtp_plugins.kernels.cuda import availability
from vtp_plugins.kernels.gpu import outdated, unless_measured
from vtp_plugins.kernels.rotary_gradient import refuse_rotary_gradient
from vtp_plugins.kernels.triton import availability as triton

HEAD_WIDTHS = (32, 64, 96, 128)

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

    In float32, products are made of three TF32 products: errors are near those of float32, and infinite
    inputs give NaN.

    Raises:
        UsageError: The gradient of the rotary tables is required.
    """
    from vtp_plugins.kernels.cuda.attention_operator import attention_forward

    refuse_rotary_gradient("cuda", rope)
    cos, sin = (None, None) if rope is None else (rope.cos.contiguous(), rope.sin.contiguous())
    longest = q.shape[2]
    if cu_seqlens is not None:
        # A trace can't read the lengths; blocks beyond a sequence's end return at once.
        tracing = torch.compiler.is_compiling()
        longest = q.shape[0] if tracing else max(cu_seqlens.diff().tolist(), default=0)
        cu_seqlens = cu_seqlens.to(q.device, torch.int32).contiguous()
    out, lse = attention_forward(q, k, v, q_norm, k_norm, cos, sin, cu_seqlens, longest, scale)
    return out, lse if return_lse else None


def _obstacle() -> str | None:
    return availability.obstacle() or triton.obstacle()


def _refuses(case: AttentionCase) -> str | None:
    if case.dtype not in _DTYPES:
        return f"has no {str(case.dtype).removeprefix('torch.')}"
    if case.rope == torch.float64:
        return "has no rotation in float64"
    if case.width not in HEAD_WIDTHS:
        return f"has head widths {', '.join(map(str, HEAD_WIDTHS))}, not {case.width}"
    return outdated(case.index)


KERNEL = AttentionKernel(
    name="cuda",
    run=run,
    refuses=_refuses,
    suits=unless_measured,
    device="cuda",
    missing=_obstacle,
    packs=True,
)
