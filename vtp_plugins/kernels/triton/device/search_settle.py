"""Exact distances after the screen: of the few groups that are left, or of what a finer screen leaves."""

from __future__ import annotations

import triton
import triton.language as tl

from vtp_plugins.kernels.triton.device.rounding import read
from vtp_plugins.kernels.triton.device.search_exact import NONE, distances, least, put_result
from vtp_plugins.kernels.triton.device.search_frame import framed


@triton.jit
def search_settle(
    x_ptr,
    c_ptr,
    x_inverse_ptr,
    c_inverse_ptr,
    weight_ptr,
    row_bound_ptr,
    upper_ptr,
    other_ptr,
    block_ptr,
    low_ptr,
    index_ptr,
    distance_ptr,
    row_low_ptr,
    left_ptr,
    left_count_ptr,
    rows_count,
    codes_count,
    width,
    x_row,
    x_column,
    c_row,
    c_column,
    SPLITS: tl.constexpr,
    LANES: tl.constexpr,
    CODES: tl.constexpr,
    ROWS: tl.constexpr,
    METRIC: tl.constexpr,
):
    """Finds the least exact distance in the groups in question; rows with too many are listed in `left`."""
    SLOTS: tl.constexpr = SPLITS * LANES
    GROUP: tl.constexpr = CODES // LANES
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = rows < rows_count
    slots = tl.arange(0, SLOTS)
    at = rows.to(tl.int64)[:, None] * SLOTS + slots[None, :]
    upper = tl.load(upper_ptr + at, mask=inside[:, None], other=float("-inf"))
    other = tl.load(other_ptr + at, mask=inside[:, None], other=float("-inf"))
    home = tl.load(block_ptr + at, mask=inside[:, None], other=0)
    shares = rows.to(tl.int64)[:, None] * SPLITS + tl.arange(0, SPLITS)[None, :]
    low = tl.max(tl.load(low_ptr + shares, mask=inside[:, None], other=0.0), 1)
    bound = tl.load(row_bound_ptr + rows, mask=inside, other=0.0)
    valid = inside & (bound == bound)
    crowded = valid & (tl.max(other, 1) >= low)
    # The order of the list differs from run to run; what is found for a row doesn't depend on it.
    ones = crowded.to(tl.int32)
    base = tl.atomic_add(left_count_ptr, tl.sum(ones, 0))
    tl.store(left_ptr + base + tl.cumsum(ones, 0) - ones, rows, mask=crowded)
    tl.store(row_low_ptr + rows, low, mask=inside)
    waiting = ((valid & (crowded == 0))[:, None] & (upper >= low[:, None])).to(tl.int32)
    inverse = tl.full((ROWS,), 1.0, tl.float64)
    if METRIC == "cosine":
        inverse = tl.load(x_inverse_ptr + rows, mask=inside, other=0.0)
    best = tl.full((ROWS,), float("inf"), tl.float64)
    index = tl.full((ROWS,), NONE, tl.int32)
    while tl.max(tl.max(waiting, 1), 0) > 0:
        slot = tl.argmax(waiting, 1)
        asked = tl.max(waiting, 1) > 0
        mine = slots[None, :] == slot[:, None]
        block = tl.sum(tl.where(mine, home, 0), 1)
        members = tl.arange(0, GROUP) * LANES
        codes = (block * CODES + slot % LANES)[:, None] + members[None, :]
        known = asked[:, None] & (codes < codes_count)
        distance = distances(
            x_ptr, inverse, rows, x_row, x_column, c_ptr, c_inverse_ptr, codes, known, c_row, c_column,
            weight_ptr, width, ROWS, GROUP, METRIC,
        )  # fmt: skip
        best, index = least(best, index, distance, codes, known)
        waiting = tl.where(mine, 0, waiting)
    put_result(index_ptr, distance_ptr, rows, best, index, inside & (crowded == 0))


@triton.jit
def search_sweep(
    x_ptr,
    operand_ptr,
    bias_ptr,
    c_ptr,
    x_inverse_ptr,
    c_inverse_ptr,
    weight_ptr,
    centre_ptr,
    scale_ptr,
    row_bound_ptr,
    block_bound_ptr,
    row_low_ptr,
    left_ptr,
    left_count_ptr,
    index_ptr,
    distance_ptr,
    padded_rows,
    codes_count,
    blocks,
    width,
    x_row,
    x_column,
    c_row,
    c_column,
    epsilon,
    PADDED: tl.constexpr,
    ROWS: tl.constexpr,
    CODES: tl.constexpr,
    COLUMNS: tl.constexpr,
    METRIC: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Searches all codes for the rows in `left`: a float32 screen, exact distances where a code could win.

    `operand` (codes, PADDED) holds the codes in the frame in float32, `block_bound` its bounds. Each program
    takes every n-th tile of the list, so that the grid needs not know how long it is.
    """
    count = tl.load(left_count_ptr)
    columns = tl.arange(0, COLUMNS)
    for start in range(tl.program_id(0) * ROWS, count, tl.num_programs(0) * ROWS):
        listed = start + tl.arange(0, ROWS)
        inside = listed < count
        rows = tl.load(left_ptr + listed, mask=inside, other=0)
        low = tl.load(row_low_ptr + rows, mask=inside, other=float("inf"))
        general = tl.load(row_bound_ptr + rows, mask=inside, other=0.0)
        norm = tl.load(row_bound_ptr + 3 * padded_rows + rows, mask=inside, other=0.0)
        sound = general < float("inf")
        inverse = tl.full((ROWS,), 1.0, tl.float64)
        if METRIC == "cosine":
            inverse = tl.load(x_inverse_ptr + rows, mask=inside, other=0.0)
        best = tl.full((ROWS,), float("inf"), tl.float64)
        index = tl.full((ROWS,), NONE, tl.int32)
        for block in range(0, blocks):
            codes = block * CODES + tl.arange(0, CODES)
            bias = tl.load(bias_ptr + codes)
            scores = tl.broadcast_to(bias[None, :], (ROWS, CODES))
            for first in range(0, PADDED, COLUMNS):
                real = first + columns < width
                at = rows.to(tl.int64)[:, None] * x_row + (first + columns)[None, :].to(tl.int64) * x_column
                x = read(x_ptr + at, inside[:, None] & real[None, :])
                x = framed(x, inverse, centre_ptr, scale_ptr, first + columns, real, METRIC)
                x = tl.where(sound[:, None], x, 0.0).to(tl.float32)
                c = tl.load(operand_ptr + codes.to(tl.int64)[:, None] * PADDED + (first + columns)[None, :])
                scores = tl.dot(x, tl.trans(c), scores, input_precision=PRECISION)
            p0 = tl.load(block_bound_ptr + block)
            p1 = tl.load(block_bound_ptr + blocks + block)
            p2 = tl.load(block_bound_ptr + 2 * blocks + block)
            # Rounding a row to float32 moves it by less than 2^-23 of its norm.
            error = (general + (2.0**-23 + 2.0 * epsilon) * norm * p0 + norm * p1 + p2) * (1.0 + 2.0**-10)
            low = tl.maximum(low, tl.max(scores, 1) - error)
            near = (
                (scores + error[:, None] >= low[:, None]) & inside[:, None] & (codes < codes_count)[None, :]
            )
            waiting = near.to(tl.int32)
            while tl.max(tl.max(waiting, 1), 0) > 0:
                member = tl.argmax(waiting, 1)
                asked = tl.max(waiting, 1) > 0
                code = (block * CODES + member)[:, None]
                distance = distances(
                    x_ptr, inverse, rows, x_row, x_column, c_ptr, c_inverse_ptr, code, asked[:, None], c_row,
                    c_column, weight_ptr, width, ROWS, 1, METRIC,
                )  # fmt: skip
                best, index = least(best, index, distance, code, asked[:, None])
                mine = tl.arange(0, CODES)[None, :] == member[:, None]
                waiting = tl.where(mine, 0, waiting)
        put_result(index_ptr, distance_ptr, rows, best, index, inside)
