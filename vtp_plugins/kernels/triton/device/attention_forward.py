"""Flash attention, forward: one program owns a tile of queries of one head and walks over the keys."""

from __future__ import annotations

import triton
import triton.language as tl

from vtp_plugins.kernels.triton.device.rounding import read, rounded, write


@triton.jit
def place(tiles, heads):
    """Tile, sequence and head of this program: tiles run fastest, then heads."""
    program = tl.program_id(0)
    return program % tiles, program // tiles // heads, (program // tiles % heads).to(tl.int64)


@triton.jit
def sequence(offsets_ptr, index, tokens, PACKED: tl.constexpr):
    """First token, length and batch index of sequence `index`; dense sequences are rows of the batch."""
    if PACKED:
        first = tl.load(offsets_ptr + index).to(tl.int64)
        length = (tl.load(offsets_ptr + index + 1) - first).to(tl.int32)
        return first, length, index.to(tl.int64) * 0
    return index.to(tl.int64) * 0, tokens, index.to(tl.int64)


@triton.jit
def tile(pointer, positions, stride, inside, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    """(len(positions), PADDED) rows at `positions`, 0 outside the sequence and beyond WIDTH."""
    columns = tl.arange(0, PADDED)
    mask = inside[:, None]
    if PADDED != WIDTH:
        mask = mask & (columns < WIDTH)[None, :]
    return read(pointer + positions.to(tl.int64)[:, None] * stride + columns[None, :], mask)


@triton.jit
def put_tile(pointer, positions, stride, values, inside, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    """Stores what `tile` reads."""
    columns = tl.arange(0, PADDED)
    mask = inside[:, None]
    if PADDED != WIDTH:
        mask = mask & (columns < WIDTH)[None, :]
    write(pointer + positions.to(tl.int64)[:, None] * stride + columns[None, :], values, mask)


@triton.jit
def attention_forward(
    q_ptr,
    k_ptr,
    v_ptr,
    out_ptr,
    lse_ptr,
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
    lse_batch,
    lse_head,
    lse_token,
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    PACKED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Softmax attention of one tile of QUERIES queries; `scale` includes log2(e), `lse` is natural."""
    part, index, head = place(tiles, heads)
    first, length, batch = sequence(offsets_ptr, index, tokens, PACKED)
    if part * QUERIES >= length:
        return
    rows = part * QUERIES + tl.arange(0, QUERIES)
    q_ptr += batch * q_batch + head * q_head + first * q_token
    k_ptr += batch * k_batch + head * k_head + first * k_token
    v_ptr += batch * v_batch + head * v_head + first * v_token
    q = tile(q_ptr, rows, q_token, rows < length, WIDTH, PADDED)
    largest = tl.full((QUERIES,), float("-inf"), tl.float32)
    total = tl.zeros((QUERIES,), tl.float32)
    out = tl.zeros((QUERIES, PADDED), tl.float32)
    for start in range(0, length, KEYS):
        columns = start + tl.arange(0, KEYS)
        inside = columns < length
        k = tile(k_ptr, columns, k_token, inside, WIDTH, PADDED)
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
        scores = tl.where(inside[None, :], scores, float("-inf"))
        raised = tl.maximum(largest, tl.max(scores, 1))
        weights = tl.exp2(scores - raised[:, None])
        shrink = tl.exp2(largest - raised)
        total = total * shrink + tl.sum(weights, 1)
        v = tile(v_ptr, columns, v_token, inside, WIDTH, PADDED)
        out = out * shrink[:, None]
        out = tl.dot(rounded(weights, v_ptr.dtype.element_ty), v, out, input_precision=PRECISION)
        largest = raised
    out_ptr += batch * out_batch + head * out_head + first * out_token
    put_tile(out_ptr, rows, out_token, out / total[:, None], rows < length, WIDTH, PADDED)
    lse_ptr += batch * lse_batch + head * lse_head + first * lse_token
    lse = (largest + tl.log2(total)) * 0.6931471805599453
    tl.store(lse_ptr + rows.to(tl.int64) * lse_token, lse, mask=rows < length)
