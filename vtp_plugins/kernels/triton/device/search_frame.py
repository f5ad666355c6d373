"""Vectors and codes moved to the frame of the search: centred, weighted, scaled, rounded; with error bounds.

x' = (x / |x| - m) * s for ``cosine`` and (x - m) * s for the others, computed in float64. The score of a code
is x'.c' + b(c), largest for the nearest code: b = -|c'|^2 / 2, for ``cosine`` m.c'. A computed score is off
by at most

    e = R0 + R1 P0 + R2 P1 + P2

with R of the row and P the largest of a block of codes; `search_bounds` derives the constants.
"""

from __future__ import annotations

import triton
import triton.language as tl

from vtp_plugins.kernels.triton.device.rounding import read, rounded
from vtp_plugins.kernels.triton.device.search_exact import inverse_norm

BEYOND = tl.constexpr(2.0**100)
"""Squared norm in the frame from which on the screen could overflow."""

UP = tl.constexpr(1.0 + 2.0**-10)
"""Makes a float32 bound of a float64 value, and covers the sums of bounds."""

LOWEST = tl.constexpr(-(2.0**126))
"""Score of codes that are not there; finite, so that it survives every matrix unit."""


@triton.jit
def framed(x, inverse, centre_ptr, scale_ptr, columns, known, METRIC: tl.constexpr):
    """Returns x' (R, C) float64 of x (R, C) at `columns` (C,)."""
    x = x.to(tl.float64)
    if METRIC == "cosine":
        x = x * inverse[:, None]
    centre = tl.load(centre_ptr + columns, mask=known, other=0.0)
    scale = tl.load(scale_ptr + columns, mask=known, other=0.0)
    return (x - centre[None, :]) * scale[None, :]


@triton.jit
def search_frame(
    x_ptr,
    operand_ptr,
    bound_ptr,
    bias_ptr,
    inverse_ptr,
    centre_ptr,
    scale_ptr,
    count,
    padded_count,
    width,
    row_stride,
    column_stride,
    gamma,
    epsilon,
    smallest,
    PADDED: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
    METRIC: tl.constexpr,
    CODES: tl.constexpr,
):
    """Operand (padded_count, PADDED), bounds (4, padded_count) of vectors or (3, padded_count) of codes.

    Rows from `count` on become zeros. Bounds are infinite where the frame does not hold, NaN for vectors with
    a NaN. Codes get their bias, and for ``cosine`` all get their inverse norms.
    """
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = rows < count
    wide_rows = rows.to(tl.int64)
    inverse = tl.full((ROWS,), 1.0, tl.float64)
    if METRIC == "cosine":
        inverse = inverse_norm(x_ptr, rows, inside, row_stride, column_stride, width, ROWS)
        tl.store(inverse_ptr + rows, inverse, mask=inside)
    square = tl.zeros((ROWS,), tl.float64)
    bias = tl.zeros((ROWS,), tl.float64)
    void = tl.zeros((ROWS,), tl.int32)
    for first in range(0, PADDED, COLUMNS):
        columns = first + tl.arange(0, COLUMNS)
        known = columns < width
        at = wide_rows[:, None] * row_stride + columns[None, :].to(tl.int64) * column_stride
        x = read(x_ptr + at, inside[:, None] & known[None, :])
        moved = framed(x, inverse, centre_ptr, scale_ptr, columns, known, METRIC)
        square += tl.sum(moved * moved, 1)
        void |= tl.max((x != x).to(tl.int32), 1)
        if METRIC == "cosine":
            bias += tl.sum(moved * tl.load(centre_ptr + columns, mask=known, other=0.0)[None, :], 1)
    # NaN fails every comparison.
    sound = inside & (square < BEYOND)
    rounding = tl.zeros((ROWS,), tl.float64)
    rounded_square = tl.zeros((ROWS,), tl.float64)
    for first in range(0, PADDED, COLUMNS):
        columns = first + tl.arange(0, COLUMNS)
        known = columns < width
        at = wide_rows[:, None] * row_stride + columns[None, :].to(tl.int64) * column_stride
        x = read(x_ptr + at, inside[:, None] & known[None, :])
        moved = framed(x, inverse, centre_ptr, scale_ptr, columns, known, METRIC)
        moved = tl.where(sound[:, None], moved, 0.0)
        operand = rounded(moved.to(tl.float32), operand_ptr.dtype.element_ty)
        near = operand.to(tl.float32).to(tl.float64)
        rounding += tl.sum((moved - near) * (moved - near), 1)
        rounded_square += tl.sum(near * near, 1)
        target = operand_ptr + wide_rows[:, None] * PADDED + columns[None, :]
        tl.store(target, operand.to(operand_ptr.dtype.element_ty), mask=(rows < padded_count)[:, None])
    norm = (tl.sqrt(tl.where(sound, square, 0.0)) * UP).to(tl.float32)
    error = (tl.sqrt(rounding) * UP).to(tl.float32)
    short = (tl.sqrt(rounded_square) * UP).to(tl.float32)
    everywhere = tl.where(inside & (sound == 0), float("inf"), 0.0)
    slack = smallest * (1.0 + norm)
    bound_ptr += rows
    there = rows < padded_count
    if CODES:
        if METRIC != "cosine":
            bias = -0.5 * square
        bias = tl.where(sound, bias, 0.0)
        size = (tl.abs(bias) * UP).to(tl.float32)
        tl.store(bound_ptr, norm, mask=there)
        tl.store(bound_ptr + padded_count, (error + gamma * short) * UP, mask=there)
        rest = ((gamma + 2.0**-22) * size + epsilon * norm * norm + slack) * UP
        tl.store(bound_ptr + 2 * padded_count, rest + everywhere, mask=there)
        tl.store(bias_ptr + rows, tl.where(inside, bias, LOWEST).to(tl.float32), mask=there)
    else:
        everywhere = tl.where(void > 0, float("nan"), everywhere)
        rest = (epsilon * norm * norm + slack) * UP
        tl.store(bound_ptr, rest + everywhere, mask=there)
        tl.store(bound_ptr + padded_count, (error + 2.0 * epsilon * norm) * UP, mask=there)
        tl.store(bound_ptr + 2 * padded_count, short, mask=there)
        tl.store(bound_ptr + 3 * padded_count, norm, mask=there)
