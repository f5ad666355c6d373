"""Flash attention, backward, without atomics: one kernel owns tiles of queries, one tiles of keys.

Both recompute the softmax from the log-sum-exp; equal inputs give equal bits.
"""

from __future__ import annotations

import triton
import triton.language as tl

from vtp_plugins.kernels.triton.device.attention_forward import place, put_tile, sequence, tile
from vtp_plugins.kernels.triton.device.rounding import rounded

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def attention_backward_queries(
    q_ptr,
    k_ptr,
    v_ptr,
    out_ptr,
    dout_ptr,
    lse_ptr,
    dlse_ptr,
    delta_ptr,
    dq_ptr,
    offsets_ptr,
    tokens,
    heads,
    tiles,
    scale,
    q_batch,
    q_head,
    q_token,
    k_batch,
    k_head,
    k_token,
    v_batch,
    v_head,
    v_token,
    out_batch,
    out_head,
    out_token,
    dout_batch,
    dout_head,
    dout_token,
    lse_batch,
    lse_head,
    lse_token,
    dq_batch,
    dq_head,
    dq_token,
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    PACKED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Finds dQ of one tile of queries, and their deltas sum(out * dout) - dlse for the other kernel."""
    part, index, head = place(tiles, heads)
    first, length, batch = sequence(offsets_ptr, index, tokens, PACKED)
    if part * QUERIES >= length:
        return
    rows = part * QUERIES + tl.arange(0, QUERIES)
    mine = rows < length
    q_ptr += batch * q_batch + head * q_head + first * q_token
    k_ptr += batch * k_batch + head * k_head + first * k_token
    v_ptr += batch * v_batch + head * v_head + first * v_token
    out_ptr += batch * out_batch + head * out_head + first * out_token
    dout_ptr += batch * dout_batch + head * dout_head + first * dout_token
    q = tile(q_ptr, rows, q_token, mine, WIDTH, PADDED)
    dout = tile(dout_ptr, rows, dout_token, mine, WIDTH, PADDED)
    out = tile(out_ptr, rows, out_token, mine, WIDTH, PADDED)
    at = batch * lse_batch + head * lse_head + (first + rows) * lse_token
    delta = tl.sum(out.to(tl.float32) * dout.to(tl.float32), 1) - tl.load(dlse_ptr + at, mask=mine, other=0.0)
    tl.store(delta_ptr + at, delta, mask=mine)
    lse = tl.load(lse_ptr + at, mask=mine, other=float("inf")) * LOG2_E
    dq = tl.zeros((QUERIES, PADDED), tl.float32)
    for start in range(0, length, KEYS):
        columns = start + tl.arange(0, KEYS)
        inside = columns < length
        k = tile(k_ptr, columns, k_token, inside, WIDTH, PADDED)
        v = tile(v_ptr, columns, v_token, inside, WIDTH, PADDED)
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * (scale * LOG2_E)
        weights = tl.where(inside[None, :], tl.exp2(scores - lse[:, None]), 0.0)
        dweights = tl.dot(dout, tl.trans(v), input_precision=PRECISION)
        dscores = rounded(weights * (dweights - delta[:, None]), k_ptr.dtype.element_ty)
        dq = tl.dot(dscores, k, dq, input_precision=PRECISION)
    dq_ptr += batch * dq_batch + head * dq_head + first * dq_token
    put_tile(dq_ptr, rows, dq_token, dq * scale, mine, WIDTH, PADDED)


@triton.jit
def attention_backward_keys(
    q_ptr,
    k_ptr,
    v_ptr,
    dout_ptr,
    lse_ptr,
    delta_ptr,
    dk_ptr,
    dv_ptr,
    offsets_ptr,
    tokens,
    heads,
    tiles,
    scale,
    q_batch,
    q_head,
    q_token,
    k_batch,
    k_head,
    k_token,
    v_batch,
    v_head,
    v_token,
    dout_batch,
    dout_head,
    dout_token,
    lse_batch,
    lse_head,
    lse_token,
    dk_batch,
    dk_head,
    dk_token,
    dv_batch,
    dv_head,
    dv_token,
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    PACKED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Finds dK and dV of one tile of keys; runs after the kernel of the queries, which wrote the deltas."""
    part, index, head = place(tiles, heads)
    first, length, batch = sequence(offsets_ptr, index, tokens, PACKED)
    if part * KEYS >= length:
        return
    columns = part * KEYS + tl.arange(0, KEYS)
    mine = columns < length
    q_ptr += batch * q_batch + head * q_head + first * q_token
    k_ptr += batch * k_batch + head * k_head + first * k_token
    v_ptr += batch * v_batch + head * v_head + first * v_token
    dout_ptr += batch * dout_batch + head * dout_head + first * dout_token
    lse_ptr += batch * lse_batch + head * lse_head + first * lse_token
    delta_ptr += batch * lse_batch + head * lse_head + first * lse_token
    k = tile(k_ptr, columns, k_token, mine, WIDTH, PADDED)
    v = tile(v_ptr, columns, v_token, mine, WIDTH, PADDED)
    dk = tl.zeros((KEYS, PADDED), tl.float32)
    dv = tl.zeros((KEYS, PADDED), tl.float32)
    for start in range(0, length, QUERIES):
        rows = start + tl.arange(0, QUERIES)
        inside = rows < length
        q = tile(q_ptr, rows, q_token, inside, WIDTH, PADDED)
        dout = tile(dout_ptr, rows, dout_token, inside, WIDTH, PADDED)
        at = rows.to(tl.int64) * lse_token
        lse = tl.load(lse_ptr + at, mask=inside, other=float("inf")) * LOG2_E
        delta = tl.load(delta_ptr + at, mask=inside, other=0.0)
        scores = tl.dot(k, tl.trans(q), input_precision=PRECISION) * (scale * LOG2_E)
        weights = tl.exp2(scores - lse[None, :])
        dv = tl.dot(rounded(weights, dout_ptr.dtype.element_ty), dout, dv, input_precision=PRECISION)
        dweights = tl.dot(v, tl.trans(dout), input_precision=PRECISION)
        dscores = rounded(weights * (dweights - delta[None, :]), q_ptr.dtype.element_ty)
        dk = tl.dot(dscores, q, dk, input_precision=PRECISION)
    dk_ptr += batch * dk_batch + head * dk_head + first * dk_token
    dv_ptr += batch * dv_batch + head * dv_head + first * dv_token
    put_tile(dk_ptr, columns, dk_token, dk * scale, mine, WIDTH, PADDED)
    put_tile(dv_ptr, columns, dv_token, dv, mine, WIDTH, PADDED)
