"""Norm and rotation of queries and keys before attention: launches of `device.query_key`. Needs triton."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from triton import cdiv

from vtp_core.ops.attention_torch import NORM_EPS
from vtp_plugins.kernels.triton.configuration import POSITION_TOKENS, padded_width
from vtp_plugins.kernels.triton.device import query_key as query_key_device


def prepared(
    x: Tensor, weight: Tensor | None, cos: Tensor | None, sin: Tensor | None, *, packed: bool
) -> Tensor:
    """Queries or keys after norm and rotation; unchanged without either.

    Args:
        x: (B, H, N, d), or packed (T, H, d).
        weight: Of the norm, (d,) or None.
        cos: (P, d) or None.
        sin: (P, d) or None.
        packed: Whether the layout is packed.

    Returns:
        Same shape and dtype as `x`, contiguous unless it is `x` itself.
    """
    if weight is None and cos is None:
        return x
    x, out = rows(x), torch.empty_like(x, memory_format=torch.contiguous_format)
    shared, constants, programs = _positions(x, weight, cos, sin, packed=packed)
    with torch.cuda.device_of(x):
        query_key_device.query_key_forward[(programs,)](
            x, out, *shared, *strides(x), *strides(out), **constants
        )
    return out


def unprepared(
    x: Tensor, dout: Tensor, weight: Tensor | None, cos: Tensor | None, sin: Tensor | None, *, packed: bool
) -> tuple[Tensor, Tensor]:
    """Backward of `prepared`.

    Args:
        x: As given to `prepared`.
        dout: Gradient of its result.
        weight: As there.
        cos: As there.
        sin: As there.
        packed: As there.

    Returns:
        Gradients of `x` and of the weight (empty without a weight).
    """
    if weight is None and cos is None:
        return dout, dout.new_empty(0)
    x, dx = rows(x), torch.empty_like(dout)
    shared, constants, programs = _positions(x, weight, cos, sin, packed=packed)
    shares = dout.new_empty(0 if weight is None else programs, x.shape[-1], dtype=torch.float32)
    if programs:
        with torch.cuda.device_of(x):
            query_key_device.query_key_backward[(programs,)](
                x, dout, dx, shares, *shared, *strides(x), *strides(dout), *strides(dx), **constants
            )
    return dx, dout.new_empty(0) if weight is None else shares.sum(0).to(weight.dtype)


def _positions(
    x: Tensor, weight: Tensor | None, cos: Tensor | None, sin: Tensor | None, *, packed: bool
) -> tuple[tuple[Any, ...], dict[str, Any], int]:
    """Arguments that both kernels of norm and rotation take, their constants, and the number of programs."""
    tokens, heads, width = x.shape[0 if packed else 2], x.shape[1], x.shape[-1]
    tiles = cdiv(tokens, POSITION_TOKENS)
    if cos is not None and sin is not None:
        # Tables need no more precision than the values that they rotate.
        table = torch.float32 if cos.dtype == torch.float64 else cos.dtype
        cos, sin = (t.to(table).contiguous() for t in (cos, sin))
    constants = {
        "WIDTH": width,
        "PADDED": padded_width(width),
        "TOKENS": POSITION_TOKENS,
        "NORM": weight is not None,
        "ROPE": cos is not None,
        "EPSILON": NORM_EPS,
        "num_warps": 4,
    }
    still = 0 if cos is None else tokens - cos.shape[0]
    # Kernels need a valid tensor even for arguments that they don't read.
    pointers = [x if t is None else t for t in (weight, cos, sin)]
    return (*pointers, tokens, heads, tiles, still), constants, tiles * heads * (1 if packed else x.shape[0])


def strides(x: Tensor) -> tuple[int, int, int]:
    """Strides of batch (0 when packed), head and token of (B, H, N, d) or packed (T, H, d)."""
    if x.dim() == 3:
        return 0, x.stride(1), x.stride(0)
    return x.stride(0), x.stride(1), x.stride(2)


def rows(x: Tensor) -> Tensor:
    """(..., d) with contiguous rows: `x` itself if they are, else a copy."""
    return x if x.stride(-1) == 1 else x.contiguous()
