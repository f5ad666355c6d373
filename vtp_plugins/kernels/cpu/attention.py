"""`vit_attention` in C++ (`csrc/cpu/attention_*`), on every instruction set and all threads of torch.

Norm, rotation and attention are one operator with a backward of its own. Results have the same bits for any
number of threads. Below AVX512-BF16 bfloat16 rows are computed in float32 and rounded at the end.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vtp_core.ops.attention_choice import AttentionCase, AttentionKernel, Rope
from vtp_plugins.kernels.cpu.instruction_set import cpu_isa
from vtp_plugins.kernels.native.loading import why_missing
from vtp_plugins.kernels.rotary_gradient import refuse_rotary_gradient

WIDEST = 256
"""Largest head width of the kernels."""

_MISSING = why_missing("_C_cpu")
if _MISSING is None:
    # Registers shapes for tracing and gradients of the library's operators.
    import vtp_plugins.kernels.cpu.attention_operator  # noqa: F401


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
    """The contract of `vtp_core.ops.attention.vit_attention`.

    The output lies in memory token by token, (B, N, H, d), as the projection after it reads it.

    Raises:
        UsageError: The gradient of the rotary tables is required.
    """
    refuse_rotary_gradient("cpu", rope)
    cos, sin = (None, None) if rope is None else (_table(rope.cos), _table(rope.sin))
    q_norm, k_norm = _weight(q_norm), _weight(k_norm)
    if cu_seqlens is not None:
        out, lse = torch.ops.vtp_cpu.attention_forward(q, k, v, q_norm, k_norm, cos, sin, cu_seqlens, scale)
        return out, lse.transpose(0, 1) if return_lse else None
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    out, lse = torch.ops.vtp_cpu.attention_forward(q, k, v, q_norm, k_norm, cos, sin, None, scale)
    return out.transpose(1, 2), lse if return_lse else None


def _table(table: Tensor) -> Tensor:
    return table.float() if table.dtype == torch.float64 else table


def _weight(weight: Tensor | None) -> Tensor | None:
    return weight if weight is None or weight.dtype == torch.bfloat16 else weight.float()


def _missing() -> str | None:
    return _MISSING


def _refuses(case: AttentionCase) -> str | None:
    if case.dtype not in (torch.float32, torch.bfloat16):
        return f"has no {str(case.dtype).removeprefix('torch.')}"
    if case.rope == torch.float16:
        return "does not rotate in float16"
    if not 1 <= case.width <= WIDEST:
        return f"has head widths 1 to {WIDEST}, not {case.width}"
    if not torch.compiler.is_compiling():
        cpu_isa()  # raises UsageError for a wrong VTP_CPU_ISA, before C++ raises RuntimeError
    return None


def _suits(case: AttentionCase) -> bool:
    """Everywhere but in float32 without AVX2: there torch's backward is 1.4 x faster, measured."""
    if case.dtype == torch.bfloat16 or torch.compiler.is_compiling():
        return True
    return cpu_isa() != "portable"


KERNEL = AttentionKernel(
    name="cpu", run=run, refuses=_refuses, suits=_suits, device="cpu", missing=_missing, packs=True
)
