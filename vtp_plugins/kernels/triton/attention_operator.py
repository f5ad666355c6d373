"""The attention kernels as operators of torch: launches, shapes for tracing, gradients. Needs triton.

Norm and rotation come before them, in `query_key`.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula
from triton import cdiv

from vtp_plugins.kernels.flops import heads_first_flops
from vtp_plugins.kernels.triton.availability import interpreted
from vtp_plugins.kernels.triton.configuration import (
    AttentionTiles,
    Number,
    Tiles,
    attention_tiles,
    nearest_architecture,
    padded_width,
)
from vtp_plugins.kernels.triton.device import attention_backward as backward_device
from vtp_plugins.kernels.triton.device import attention_forward as forward_device
from vtp_plugins.kernels.triton.query_key import prepared, rows, strides, unprepared

_NUMBERS: dict[torch.dtype, Number] = {
    torch.float32: "float32",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
}


@torch.library.custom_op("vtp_triton::attention_forward", mutates_args=())
def attention_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_norm: Tensor | None,
    k_norm: Tensor | None,
    cos: Tensor | None,
    sin: Tensor | None,
    offsets: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp.

    Args:
        q: (B, H, N, d), or packed (T, H, d).
        k: The same shape and dtype.
        v: The same shape and dtype.
        q_norm: (d,) or None.
        k_norm: (d,) or None.
        cos: (P, d) or None.
        sin: (P, d) or None.
        offsets: (S + 1,) where sequences begin, or None for the dense layout.
        scale: Factor on the scores.

    Returns:
        (..., d) contiguous and its log-sum-exp, float32, without the last axis.
    """
    out, lse = torch.empty_like(v, memory_format=torch.contiguous_format), _statistics(q)
    longest = _longest(q, offsets)
    if not out.numel() or not longest:
        return out, lse
    q = prepared(q, q_norm, cos, sin, packed=offsets is not None)
    k = prepared(k, k_norm, cos, sin, packed=offsets is not None)
    q, k, v = rows(q), rows(k), rows(v)
    offsets = _beside(q, offsets)
    settings, fixed = _settings(q, offsets)
    heads, tiles = q.shape[1], cdiv(longest, settings.forward.queries)
    with torch.cuda.device_of(q):
        forward_device.attention_forward[(tiles * heads * _sequences(q, offsets),)](
            q, k, v, out, lse, lse if offsets is None else offsets,
            longest, heads, tiles, scale * math.log2(math.e),
            *strides(q), *strides(k), *strides(v), *strides(out), *strides(lse.unsqueeze(-1)),
            **fixed, **_cut(settings.forward),
        )  # fmt: skip
    return out, lse


@attention_forward.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_norm: Tensor | None,
    k_norm: Tensor | None,
    cos: Tensor | None,
    sin: Tensor | None,
    offsets: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(v, memory_format=torch.contiguous_format), _statistics(q)


@torch.library.custom_op("vtp_triton::attention_backward", mutates_args=())
def attention_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_norm: Tensor | None,
    k_norm: Tensor | None,
    cos: Tensor | None,
    sin: Tensor | None,
    offsets: Tensor | None,
    scale: float,
    out: Tensor,
    lse: Tensor,
    dout: Tensor,
    dlse: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v and of the two norm weights (empty without a norm), deterministic.

    Args:
        q: As given to `attention_forward`, with all up to `scale`.
        k: As there.
        v: As there.
        q_norm: As there.
        k_norm: As there.
        cos: As there.
        sin: As there.
        offsets: As there.
        scale: As there.
        out: Its first result.
        lse: Its second result.
        dout: Gradient of `out`.
        dlse: Gradient of `lse`.
    """
    packed, longest = offsets is not None, _longest(q, offsets)
    dq, dk, dv = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v))
    if q.numel() and longest:
        q_ready = rows(prepared(q, q_norm, cos, sin, packed=packed))
        k_ready = rows(prepared(k, k_norm, cos, sin, packed=packed))
        v_ready, dout = rows(v), rows(dout)
        dlse, delta = dlse.contiguous(), torch.empty_like(lse)
        offsets = _beside(q, offsets)
        settings, fixed = _settings(q, offsets)
        heads, programs = q.shape[1], q.shape[1] * _sequences(q, offsets)
        starts = lse if offsets is None else offsets
        inputs = (*strides(q_ready), *strides(k_ready), *strides(v_ready))
        statistics = strides(lse.unsqueeze(-1))
        with torch.cuda.device_of(q):
            cut = settings.backward_queries
            tiles = cdiv(longest, cut.queries)
            backward_device.attention_backward_queries[(tiles * programs,)](
                q_ready, k_ready, v_ready, out, dout, lse, dlse, delta, dq,
                starts, longest, heads, tiles, scale,
                *inputs, *strides(out), *strides(dout), *statistics, *strides(dq), **fixed, **_cut(cut),
            )  # fmt: skip
            cut = settings.backward_keys
            tiles = cdiv(longest, cut.keys)
            backward_device.attention_backward_keys[(tiles * programs,)](
                q_ready, k_ready, v_ready, dout, lse, delta, dk, dv,
                starts, longest, heads, tiles, scale,
                *inputs, *strides(dout), *statistics, *strides(dk), *strides(dv), **fixed, **_cut(cut),
            )  # fmt: skip
    dq, dq_norm = unprepared(q, dq, q_norm, cos, sin, packed=packed)
    dk, dk_norm = unprepared(k, dk, k_norm, cos, sin, packed=packed)
    return dq, dk, dv, dq_norm, dk_norm


@attention_backward.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_norm: Tensor | None,
    k_norm: Tensor | None,
    cos: Tensor | None,
    sin: Tensor | None,
    offsets: Tensor | None,
    scale: float,
    out: Tensor,
    lse: Tensor,
    dout: Tensor,
    dlse: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    dq, dk, dv = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v))
    dq_norm, dk_norm = (q.new_empty(0) if w is None else torch.empty_like(w) for w in (q_norm, k_norm))
    return dq, dk, dv, dq_norm, dk_norm


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.scale = inputs
    ctx.save_for_backward(*tensors, *output)


def _differentiate(ctx: Any, dout: Tensor, dlse: Tensor) -> tuple[Tensor | None, ...]:
    *tensors, out, lse = ctx.saved_tensors
    found = attention_backward(*tensors, ctx.scale, out, lse, dout, dlse)
    dq, dk, dv, dq_norm, dk_norm = found
    q_norm, k_norm = tensors[3], tensors[4]
    norms = (None if q_norm is None else dq_norm, None if k_norm is None else dk_norm)
    return dq, dk, dv, *norms, None, None, None, None


attention_forward.register_autograd(_differentiate, setup_context=_save)


def _settings(q: Tensor, offsets: Tensor | None) -> tuple[AttentionTiles, dict[str, Any]]:
    """Tile sizes for this GPU and the constants that the attention kernels share."""
    capability = (8, 0) if interpreted() else torch.cuda.get_device_capability(q.device)
    tiles = attention_tiles(nearest_architecture(capability), _NUMBERS[q.dtype], q.shape[-1])
    return tiles, {
        "WIDTH": q.shape[-1],
        "PADDED": padded_width(q.shape[-1]),
        "PACKED": offsets is not None,
        "PRECISION": "tf32x3" if q.dtype == torch.float32 else "ieee",
    }


def _cut(tiles: Tiles) -> dict[str, int]:
    return {
        "QUERIES": tiles.queries,
        "KEYS": tiles.keys,
        "num_warps": tiles.warps,
        "num_stages": tiles.stages,
    }


def _statistics(q: Tensor) -> Tensor:
    return torch.empty(q.shape[:-1], dtype=torch.float32, device=q.device)


def _beside(q: Tensor, offsets: Tensor | None) -> Tensor | None:
    """Offsets for the kernels: contiguous, on the device of `q`."""
    return None if offsets is None else offsets.to(q.device).contiguous()


def _longest(q: Tensor, offsets: Tensor | None) -> int:
    """Tokens of the longest sequence; reads and checks the offsets, which torch.compile does not trace."""
    if offsets is None:
        return q.shape[2]
    ends = offsets.tolist()
    if not ends or ends[0] != 0 or ends[-1] != q.shape[0] or ends != sorted(ends):
        raise ValueError(f"vit_attention: cu_seqlens must rise from 0 to {q.shape[0]} tokens, got {ends[:8]}")
    return max((stop - start for start, stop in pairwise(ends)), default=0)


def _sequences(q: Tensor, offsets: Tensor | None) -> int:
    return q.shape[0] if offsets is None else offsets.shape[0] - 1


register_flop_formula(torch.ops.vtp_triton.attention_forward)(heads_first_flops)
