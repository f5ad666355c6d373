"""RMS norm and rotation of queries or keys in one pass, before the attention; its gradient after it.

Roundings are those of the torch reference: the normed value to the dtype of the input before the weight
multiplies, the rotation in the dtype of its tables. One program owns TOKENS tokens of one head.
"""

from __future__ import annotations

import triton
import triton.language as tl

from vtp_plugins.kernels.triton.device.attention_forward import place
from vtp_plugins.kernels.triton.device.rounding import read, rounded, write


@triton.jit
def through(values, dtype: tl.constexpr):
    """Values rounded to `dtype`, back in float32."""
    return rounded(values, dtype).to(tl.float32)


@triton.jit
def normed(unit, weight_ptr, columns, known, dtype: tl.constexpr, NORM: tl.constexpr):
    """Weighted unit rows, rounded as torch rounds them; without a norm the rows as they are."""
    if NORM:
        weight = read(weight_ptr + columns, known).to(tl.float32)
        unit = through(unit, dtype) * weight[None, :]
        return through(unit, dtype)
    return unit


@triton.jit
def turned(own, other, cos, sin, dtype: tl.constexpr):
    """Returns own * cos + other * sin, each step in the tables' `dtype`."""
    along = through(through(own, dtype) * cos, dtype)
    across = through(through(other, dtype) * sin, dtype)
    return through(along + across, dtype)


@triton.jit
def query_key_forward(
    x_ptr,
    out_ptr,
    weight_ptr,
    cos_ptr,
    sin_ptr,
    tokens,
    heads,
    tiles,
    still,
    x_batch,
    x_head,
    x_token,
    out_batch,
    out_head,
    out_token,
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,
    TOKENS: tl.constexpr,
    NORM: tl.constexpr,
    ROPE: tl.constexpr,
    EPSILON: tl.constexpr,
):
    """The first `still` tokens are normed but not turned; tables (tokens - still, WIDTH) are contiguous."""
    part, batch, head = place(tiles, heads)
    batch = batch.to(tl.int64)
    rows = part.to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    columns = tl.arange(0, PADDED)
    known = columns < WIDTH
    mask = (rows < tokens)[:, None] & known[None, :]
    x_ptr += batch * x_batch + head * x_head + rows[:, None] * x_token
    kind: tl.constexpr = x_ptr.dtype.element_ty
    own = read(x_ptr + columns[None, :], mask).to(tl.float32)
    inverse = tl.full((TOKENS,), 1.0, tl.float32)
    if NORM:
        inverse = 1.0 / tl.sqrt(tl.sum(own * own, 1) / WIDTH + EPSILON)
    y = normed(own * inverse[:, None], weight_ptr, columns, known, kind, NORM)
    if ROPE:
        table: tl.constexpr = cos_ptr.dtype.element_ty
        partners = tl.where(columns < WIDTH // 2, columns + WIDTH // 2, columns - WIDTH // 2)
        other = read(x_ptr + partners[None, :], mask).to(tl.float32)
        other = normed(other * inverse[:, None], weight_ptr, partners, known, kind, NORM)
        other = tl.where(columns[None, :] < WIDTH // 2, -other, other)
        moving = mask & (rows >= still)[:, None]
        at = (rows - still)[:, None] * WIDTH + columns[None, :]
        cos = read(cos_ptr + at, moving).to(tl.float32)
        sin = read(sin_ptr + at, moving).to(tl.float32)
        y = tl.where(moving, turned(y, other, cos, sin, table), through(y, table))
    out_ptr += batch * out_batch + head * out_head + rows[:, None] * out_token
    write(out_ptr + columns[None, :], y, mask)


@triton.jit
def query_key_backward(
    x_ptr,
    dout_ptr,
    dx_ptr,
    dweight_ptr,
    weight_ptr,
    cos_ptr,
    sin_ptr,
    tokens,
    heads,
    tiles,
    still,
    x_batch,
    x_head,
    x_token,
    dout_batch,
    dout_head,
    dout_token,
    dx_batch,
    dx_head,
    dx_token,
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,
    TOKENS: tl.constexpr,
    NORM: tl.constexpr,
    ROPE: tl.constexpr,
    EPSILON: tl.constexpr,
):
    """dX, and this program's share (WIDTH,) of the weight's gradient in `dweight` (programs, WIDTH)."""
    part, batch, head = place(tiles, heads)
    batch = batch.to(tl.int64)
    rows = part.to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    columns = tl.arange(0, PADDED)
    known = columns < WIDTH
    mask = (rows < tokens)[:, None] & known[None, :]
    dout_ptr += batch * dout_batch + head * dout_head + rows[:, None] * dout_token
    gradient = read(dout_ptr + columns[None, :], mask).to(tl.float32)
    if ROPE:
        table: tl.constexpr = cos_ptr.dtype.element_ty
        partners = tl.where(columns < WIDTH // 2, columns + WIDTH // 2, columns - WIDTH // 2)
        other = read(dout_ptr + partners[None, :], mask).to(tl.float32)
        other = tl.where(columns[None, :] < WIDTH // 2, other, -other)
        moving = mask & (rows >= still)[:, None]
        at = (rows - still)[:, None] * WIDTH
        cos = read(cos_ptr + at + columns[None, :], moving).to(tl.float32)
        sin = read(sin_ptr + at + partners[None, :], moving).to(tl.float32)
        gradient = tl.where(moving, turned(gradient, other, cos, sin, table), gradient)
    if NORM:
        x_ptr += batch * x_batch + head * x_head + rows[:, None] * x_token
        x = read(x_ptr + columns[None, :], mask).to(tl.float32)
        inverse = 1.0 / tl.sqrt(tl.sum(x * x, 1) / WIDTH + EPSILON)
        unit = x * inverse[:, None]
        share = tl.sum(gradient * through(unit, x_ptr.dtype.element_ty), 0)
        tl.store(dweight_ptr + tl.program_id(0).to(tl.int64) * WIDTH + columns, share, mask=known)
        weight = read(weight_ptr + columns, known).to(tl.float32)
        gradient = gradient * weight[None, :]
        mean = tl.sum(gradient * unit, 1) / WIDTH
        gradient = (gradient - unit * mean[:, None]) * inverse[:, None]
    dx_ptr += batch * dx_batch + head * dx_head + rows[:, None] * dx_token
    write(dx_ptr + columns[None, :], gradient, mask)
