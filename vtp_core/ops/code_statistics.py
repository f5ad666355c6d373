"""Count and vector sum of each code in a batch, deterministic: the operator ``vtp::code_statistics``.

Used for the exponential moving average of a codebook, and as the transpose of the code lookup.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from vtp_core.ops.arguments import DTYPES, require_kind, require_tensor
from vtp_core.ops.describe import described


def code_statistics(vectors: Tensor, index: Tensor, codes: int) -> tuple[Tensor, Tensor]:
    """Counts and sums of vectors by code.

    Vectors of one code are added in the order of their rows (grouped by the index alone), so the result does
    not depend on the number of threads. Its gradient reaches `vectors`.

    Args:
        vectors: (..., D) float32, float64, bfloat16 or float16, D >= 1.
        index: (...,) int64, code of each vector, below `codes`; vectors with -1 are left out.
        codes: Codes K, from 1 to 2^31 - 1.

    Returns:
        Counts (K,) and sums (K, D), float32, both float64 for float64 vectors.

    Raises:
        TypeError: An argument has the wrong type; names it.
        ValueError: Shapes, dtypes or devices don't fit, or an index lies outside -1 .. codes - 1; on a GPU
            that is an assertion of the device, as a check here would wait for it.
    """
    require_tensor("code_statistics", "vectors", vectors)
    require_tensor("code_statistics", "index", index)
    require_kind("code_statistics", "codes", codes, Integral, "a number of codes")
    if complaint := _complaint(vectors, index, codes):
        both = f"vectors are {described(vectors)}, index is {described(index)}"
        raise ValueError(f"code_statistics: {complaint}; {both}")
    counts, sums = code_statistics_operator(vectors, index, codes)
    return counts, sums


_MOST = 2**31 - 1


def _complaint(vectors: Tensor, index: Tensor, codes: int) -> str | None:
    """The first error in the arguments, or None."""
    if vectors.dtype not in DTYPES or index.dtype != torch.int64:
        return "vectors must be floating point of 16 to 64 bits and index int64"
    if vectors.dim() < 1 or vectors.shape[-1] < 1:
        return "vectors must be (..., D), D >= 1"
    if vectors.shape[:-1] != index.shape or vectors.device != index.device:
        return "index must have vectors' shape without its last axis, and their device"
    if not 1 <= codes <= _MOST:
        return f"codes must be at {'least 1' if codes < 1 else f'most {_MOST}'}, got {codes}"
    return None


@torch.library.custom_op("vtp::code_statistics", mutates_args=())
def code_statistics_operator(vectors: Tensor, index: Tensor, codes: int) -> tuple[Tensor, Tensor]:
    """See `code_statistics`."""
    wide = torch.promote_types(vectors.dtype, torch.float32)
    index = index.reshape(-1)
    if index.device.type != "cpu":
        torch._assert_async(((index >= -1) & (index < codes)).all(), "code_statistics: index out of range")
        first, last = -1, -1
    else:
        first, last = map(int, index.aminmax()) if index.numel() else (-1, -1)
    if not -1 <= first <= last < codes:
        span = f"index runs from {first} to {last}"
        raise ValueError(f"code_statistics: {span}, codes are 0 to {codes - 1} (-1: none)")
    # Vectors without a code go to an extra bucket, cut off below: a mask would synchronise with the host.
    bucket = torch.where(index < 0, codes, index)
    rows = vectors.reshape(-1, vectors.shape[-1]).to(wide)
    # torch.bincount would wait for a GPU; integers add up in any order.
    counts = bucket.new_zeros(codes + 1).scatter_add_(0, bucket, torch.ones_like(bucket))
    if rows.device.type == "cpu":
        sums = rows.new_zeros(codes + 1, rows.shape[1]).index_add_(0, bucket, rows)
    else:
        sums = sums_by_sorting(rows, bucket, counts)
    return counts[:codes].to(wide), sums[:codes]


def sums_by_sorting(rows: Tensor, bucket: Tensor, counts: Tensor) -> Tensor:
    """Sums of rows by bucket in a fixed order, unlike index_add_ on a GPU.

    Args:
        rows: (N, D) floating point.
        bucket: (N,) int64.
        counts: (K,) int64, rows of each bucket.

    Returns:
        (K, D), in the dtype of `rows`.
    """
    order = bucket.argsort(stable=True)
    return torch.segment_reduce(rows[order], "sum", lengths=counts, axis=0, initial=0, unsafe=True)


@code_statistics_operator.register_fake
def _fake(vectors: Tensor, index: Tensor, codes: int) -> tuple[Tensor, Tensor]:
    wide = torch.promote_types(vectors.dtype, torch.float32)
    width = vectors.shape[-1]
    return vectors.new_empty((codes,), dtype=wide), vectors.new_empty((codes, width), dtype=wide)


def _setup(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: tuple[Tensor, Tensor]) -> None:
    vectors, index, _ = inputs
    ctx.dtype = vectors.dtype
    ctx.save_for_backward(index)
    ctx.mark_non_differentiable(output[0])


def _backward(ctx: Any, _: Tensor, gradient: Tensor) -> tuple[Tensor, None, None]:
    (index,) = ctx.saved_tensors
    rows = torch.where(index.unsqueeze(-1) < 0, 0.0, gradient[index.clamp(min=0)])
    return rows.to(ctx.dtype), None, None


code_statistics_operator.register_autograd(_backward, setup_context=_setup)


@code_statistics_operator.register_vmap
def _vmap(
    info: Any, in_dims: Sequence[int | None], vectors: Tensor, index: Tensor, codes: int
) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
    of_vectors, of_index, _ = in_dims
    if not info.batch_size:
        wide = torch.promote_types(vectors.dtype, torch.float32)
        width = vectors.movedim(of_vectors or 0, 0).shape[-1]
        sums = vectors.new_empty(0, codes, width, dtype=wide)
        return (sums.new_empty(0, codes), sums), (0, 0)
    found = [
        code_statistics_operator(
            vectors if of_vectors is None else vectors.select(of_vectors, at),
            index if of_index is None else index.select(of_index, at),
            codes,
        )
        for at in range(info.batch_size)
    ]
    counts, sums = (torch.stack(results) for results in zip(*found, strict=True))
    return (counts, sums), (0, 0)
