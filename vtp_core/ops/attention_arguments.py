"""Checks of the arguments of `vit_attention`, before an implementation is called.

Kernels read memory by address: a tensor of another shape, dtype or device would be read wrongly or out of
bounds.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vtp_core.ops.arguments import DTYPES, require_kind, require_tensor
from vtp_core.ops.attention_choice import Rope
from vtp_core.ops.describe import described

_NAME = "vit_attention"


def check_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_norm: Tensor | None,
    k_norm: Tensor | None,
    rope: Rope | None,
    cu_seqlens: Tensor | None,
) -> None:
    """Checks all tensors of a call.

    Args:
        q: (B, H, N, d); packed with `cu_seqlens`: (T, H, d).
        k: Like `q`.
        v: Like `q`.
        q_norm: (d,) or None.
        k_norm: (d,) or None.
        rope: Tables (P, d) or None.
        cu_seqlens: (S + 1,) or None. Inside torch.compile its values are left to the implementation.

    Raises:
        TypeError: One of them is no dense tensor.
        ValueError: One of them does not fit the others.
    """
    for name, x in (("q", q), ("k", k), ("v", v)):
        require_tensor(_NAME, name, x)
    for name, optional in (("q_norm", q_norm), ("k_norm", k_norm), ("cu_seqlens", cu_seqlens)):
        if optional is not None:
            require_tensor(_NAME, name, optional)
    _check_rows(q, k, v, packed=cu_seqlens is not None)
    for name, weight in (("q_norm", q_norm), ("k_norm", k_norm)):
        if weight is not None:
            _check_norm(name, weight, q)
    if rope is not None:
        _check_rope(rope, q, packed=cu_seqlens is not None)
    if cu_seqlens is not None:
        _check_bounds(cu_seqlens, q)


def _check_rows(q: Tensor, k: Tensor, v: Tensor, *, packed: bool) -> None:
    layout = "(T, H, d)" if packed else "(B, H, N, d)"
    if q.dim() != layout.count(",") + 1 or q.dtype not in DTYPES or q.shape[-1] < 1:
        raise ValueError(
            f"{_NAME}: q must be floating point {layout} of 16 to 64 bits, d >= 1, is {described(q)}"
        )
    for name, x in (("k", k), ("v", v)):
        if x.shape != q.shape or x.dtype != q.dtype or x.device != q.device:
            raise ValueError(f"{_NAME}: {name} is {described(x)}, but q is {described(q)}")


def _check_norm(name: str, weight: Tensor, q: Tensor) -> None:
    width = q.shape[-1]
    if weight.shape != (width,):
        raise ValueError(f"{_NAME}: {name} has shape {tuple(weight.shape)}, but q's head width is {width}")
    if weight.device != q.device or weight.dtype not in DTYPES:
        raise ValueError(
            f"{_NAME}: {name} must be floating point on the device of q, is {described(weight)}, "
            f"but q is {described(q)}"
        )


def _check_rope(rope: Rope, q: Tensor, *, packed: bool) -> None:
    require_kind(_NAME, "rope", rope, Rope, "Rope(cos, sin)")
    cos, sin = rope
    require_tensor(_NAME, "rope.cos", cos)
    require_tensor(_NAME, "rope.sin", sin)
    tokens, width = q.shape[0 if packed else 2], q.shape[-1]
    tables = cos.dim() == 2 and cos.shape == sin.shape and cos.shape[1] == width and width % 2 == 0
    if not tables or cos.shape[0] > tokens or (packed and cos.shape[0] != tokens):
        raise ValueError(
            f"{_NAME}: rope has cos {tuple(cos.shape)} and sin {tuple(sin.shape)}, but q is {described(q)} "
            "(needs an even head width)"
        )
    if cos.dtype not in DTYPES or sin.dtype != cos.dtype or not cos.device == sin.device == q.device:
        raise ValueError(
            f"{_NAME}: rope must be floating point of one dtype on the device of q, has cos {described(cos)} "
            f"and sin {described(sin)}, but q is {described(q)}"
        )


def _check_bounds(cu_seqlens: Tensor, q: Tensor) -> None:
    if cu_seqlens.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"{_NAME}: cu_seqlens must be int32 or int64, is {described(cu_seqlens)}")
    if cu_seqlens.dim() != 1 or cu_seqlens.device.type not in ("cpu", q.device.type):
        raise ValueError(
            f"{_NAME}: cu_seqlens must be 1-D, on the CPU or the device of q, is {described(cu_seqlens)}, "
            f"but q is {described(q)}"
        )
    if torch.compiler.is_compiling():
        return
    if cu_seqlens.is_meta:
        raise ValueError(f"{_NAME}: cu_seqlens has no values to read, is {described(cu_seqlens)}")
    ends = cu_seqlens.tolist()
    if not ends or ends[0] != 0 or ends[-1] != q.shape[0] or ends != sorted(ends):
        raise ValueError(
            f"{_NAME}: cu_seqlens must be 1-D and rise from 0 to {q.shape[0]} tokens, got shape "
            f"{tuple(cu_seqlens.shape)}: {ends[:8]}"
        )
