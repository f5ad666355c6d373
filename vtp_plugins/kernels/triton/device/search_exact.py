"""The distance of `vtp_core.ops.nearest_code_distance`, to its last bit, and the least of several.

Compiled without fused multiply-add: each product and each sum is rounded by itself.
"""

from __future__ import annotations

import triton
import triton.language as tl

from vtp_plugins.kernels.triton.device.rounding import read

NONE = tl.constexpr(2**31 - 1)
"""Index of a row that has no code yet."""


@triton.jit
def lane_total(lanes, A: tl.constexpr, B: tl.constexpr):
    """(A, B, 8) lanes to (A, B): halved three times, lane i with lane i + 4, i + 2, i + 1."""
    four = tl.sum(tl.reshape(lanes, (A, B, 2, 4)), 2)
    two = tl.sum(tl.reshape(four, (A, B, 2, 2)), 2)
    return tl.sum(two, 2)


@triton.jit
def inverse_norm(x_ptr, rows, inside, row_stride, column_stride, width, R: tl.constexpr):
    """(R,) float64: 1 / norm as ``cosine`` defines it; 0 for vectors of zeros."""
    lanes = tl.zeros((R, 1, 8), tl.float64)
    for first in range(0, width, 8):
        columns = first + tl.arange(0, 8)
        mask = inside[:, None] & (columns < width)[None, :]
        at = rows.to(tl.int64)[:, None] * row_stride + columns[None, :].to(tl.int64) * column_stride
        x = read(x_ptr + at, mask).to(tl.float64)
        lanes += tl.reshape(x * x, (R, 1, 8))
    square = tl.reshape(lane_total(lanes, R, 1), (R,))
    return tl.where(square == 0.0, 0.0, 1.0 / tl.sqrt(square))


@triton.jit
def distances(
    x_ptr,
    x_inverse,
    rows,
    x_row,
    x_column,
    c_ptr,
    c_inverse_ptr,
    codes,
    known,
    c_row,
    c_column,
    weight_ptr,
    width,
    R: tl.constexpr,
    G: tl.constexpr,
    METRIC: tl.constexpr,
):
    """(R, G) float64 distances of each row to its own G codes; `known` (R, G) says which to look at.

    Args:
        x_ptr: Vectors, strides `x_row` and `x_column`.
        x_inverse: (R,) float64 inverse norms of the rows; read for ``cosine`` only.
        rows: (R,) which vectors.
        x_row: Stride.
        x_column: Stride.
        c_ptr: Codebook, strides `c_row` and `c_column`.
        c_inverse_ptr: (K,) float64 inverse norms of the codes; read for ``cosine`` only.
        codes: (R, G) which codes.
        known: (R, G) which of them to read.
        c_row: Stride.
        c_column: Stride.
        weight_ptr: (D,) float64; read for ``weighted`` only.
        width: D.
        R: Rows.
        G: Codes of a row.
        METRIC: One of ``l2``, ``weighted``, ``cosine``.
    """
    total = tl.zeros((R, G, 8), tl.float64)
    x_base = x_ptr + rows.to(tl.int64)[:, None, None] * x_row
    c_base = c_ptr + codes.to(tl.int64)[:, :, None] * c_row
    some = tl.max(known.to(tl.int32), 1) > 0
    if METRIC == "cosine":
        c_inverse = tl.load(c_inverse_ptr + codes, mask=known, other=0.0)
    for first in range(0, width, 8):
        columns = first + tl.arange(0, 8)
        real = (columns < width)[None, None, :]
        wide = columns[None, None, :].to(tl.int64)
        x = read(x_base + wide * x_column, some[:, None, None] & real).to(tl.float64)
        c = read(c_base + wide * c_column, known[:, :, None] & real).to(tl.float64)
        if METRIC == "cosine":
            x = x * x_inverse[:, None, None]
            c = c * c_inverse[:, :, None]
        difference = x - c
        terms = difference * difference
        if METRIC == "weighted":
            weight = tl.load(weight_ptr + columns, mask=columns < width, other=0.0)
            terms = terms * weight[None, None, :]
        total += terms
    distance = lane_total(total, R, G)
    if METRIC == "cosine":
        undirected = (x_inverse[:, None] == 0.0) | (c_inverse == 0.0)
        # A comparison with itself is false for NaN only.
        distance = tl.where(undirected & (distance == distance), 1.0, distance * 0.5)
    return distance


@triton.jit
def least(best, index, distance, codes, known):
    """Best distance and index of each row after its G more codes; lowest index on a tie, NaN never."""
    found = tl.where(known & (distance == distance), distance, float("inf"))
    chosen = tl.where(known & (distance == distance), codes, NONE)
    smallest = tl.min(found, 1)
    lowest = tl.min(tl.where(found == smallest[:, None], chosen, NONE), 1)
    better = (smallest < best) | ((smallest == best) & (lowest < index))
    return tl.where(better, smallest, best), tl.where(better, lowest, index)


@triton.jit
def put_result(index_ptr, distance_ptr, rows, best, index, mask):
    """Stores index and distance; -1 and NaN for rows without a code."""
    none = index == NONE
    tl.store(index_ptr + rows, tl.where(none, -1, index).to(tl.int64), mask=mask)
    distance = tl.where(none, float("nan"), best)
    tl.store(distance_ptr + rows, distance.to(distance_ptr.dtype.element_ty), mask=mask)
