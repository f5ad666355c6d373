"""The screen: for each row, the groups of codes that could hold its nearest one.

One program owns a tile of rows and walks over a share of the blocks of CODES codes. A block's scores are
folded to LANES groups (codes with the same remainder mod LANES). Of each lane's groups the one with the
highest upper bound is kept, and of the others the highest upper bound. A row's nearest code lies in a group
whose upper bound reaches the highest lower bound of any score.
"""

from __future__ import annotations

import triton
import triton.language as tl

from vtp_plugins.kernels.triton.device.rounding import read_all


@triton.jit
def error_of(row_bound_ptr, rows, padded_rows, block_bound_ptr, block, blocks):
    """(R,) float32: how far the scores of `rows` in `block` may be off."""
    r0 = tl.load(row_bound_ptr + rows)
    r1 = tl.load(row_bound_ptr + padded_rows + rows)
    r2 = tl.load(row_bound_ptr + 2 * padded_rows + rows)
    p0 = tl.load(block_bound_ptr + block)
    p1 = tl.load(block_bound_ptr + blocks + block)
    p2 = tl.load(block_bound_ptr + 2 * blocks + block)
    return (r0 + r1 * p0 + r2 * p1 + p2) * (1.0 + 2.0**-10)


@triton.jit
def search_screen(
    x_ptr,
    c_ptr,
    bias_ptr,
    row_bound_ptr,
    block_bound_ptr,
    upper_ptr,
    other_ptr,
    block_ptr,
    low_ptr,
    padded_rows,
    blocks,
    share,
    SPLITS: tl.constexpr,
    PADDED: tl.constexpr,
    ROWS: tl.constexpr,
    CODES: tl.constexpr,
    COLUMNS: tl.constexpr,
    LANES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Writes upper, other, block (padded_rows, SPLITS, LANES) and low, the highest lower bound of a share."""
    rows = (tl.program_id(0) // SPLITS) * ROWS + tl.arange(0, ROWS)
    split = tl.program_id(0) % SPLITS
    columns = tl.arange(0, COLUMNS)
    lanes = tl.arange(0, LANES)
    x_base = x_ptr + rows.to(tl.int64)[:, None] * PADDED + columns[None, :]
    upper = tl.full((ROWS, LANES), float("-inf"), tl.float32)
    other = tl.full((ROWS, LANES), float("-inf"), tl.float32)
    home = tl.zeros((ROWS, LANES), tl.int32)
    low = tl.full((ROWS,), float("-inf"), tl.float32)
    if PADDED == COLUMNS:
        x = read_all(x_base)
    for block in range(split * share, tl.minimum(split * share + share, blocks)):
        codes = block * CODES + tl.arange(0, CODES)
        c_base = c_ptr + codes.to(tl.int64)[:, None] * PADDED + columns[None, :]
        bias = tl.load(bias_ptr + codes)
        scores = tl.broadcast_to(bias[None, :], (ROWS, CODES))
        if PADDED == COLUMNS:
            c = read_all(c_base)
            scores = tl.dot(x, tl.trans(c), scores, input_precision=PRECISION)
        else:
            for first in range(0, PADDED, COLUMNS):
                part = read_all(x_base + first)
                c = read_all(c_base + first)
                scores = tl.dot(part, tl.trans(c), scores, input_precision=PRECISION)
        error = error_of(row_bound_ptr, rows, padded_rows, block_bound_ptr, block, blocks)
        highest = tl.max(tl.reshape(scores, (ROWS, CODES // LANES, LANES)), 1)
        low = tl.maximum(low, tl.max(highest, 1) - error)
        bound = highest + error[:, None]
        better = bound > upper
        other = tl.where(better, upper, tl.maximum(other, bound))
        home = tl.where(better, block, home)
        upper = tl.where(better, bound, upper)
    at = (rows.to(tl.int64) * SPLITS + split)[:, None] * LANES + lanes[None, :]
    tl.store(upper_ptr + at, upper)
    tl.store(other_ptr + at, other)
    tl.store(block_ptr + at, home)
    tl.store(low_ptr + rows.to(tl.int64) * SPLITS + split, low)
