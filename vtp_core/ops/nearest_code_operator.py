"""The operator ``vtp::nearest_code`` and its registrations with torch.library.

It picks the implementation when it runs: torch.compile sees one node. Its gradients are written in torch, so
they can be differentiated again.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from vtp_core.ops.code_statistics import code_statistics
from vtp_core.ops.installed import installed, installed_ranking
from vtp_core.ops.nearest_code_choice import SearchCase, SearchChoice, SearchKernel
from vtp_core.ops.nearest_code_torch import REFERENCE

_SCHEMA = (
    "(Tensor vectors, Tensor codebook, str metric, Tensor? weight, bool exact, str implementation)"
    " -> (Tensor distance, Tensor index)"
)
# The distance comes first: opcheck adds the outputs in place, in the dtype of the first.


@cache
def _installed(device: torch.device) -> SearchChoice:
    ranking = installed_ranking(SearchChoice, device)
    return SearchChoice((*installed(SearchKernel), REFERENCE), ranking)


@torch.library.custom_op("vtp::nearest_code", mutates_args=(), schema=_SCHEMA)
def nearest_code_operator(
    vectors: Tensor, codebook: Tensor, metric: str, weight: Tensor | None, exact: bool, implementation: str
) -> tuple[Tensor, Tensor]:
    """Runs the chosen implementation; see `vtp_core.ops.nearest_code.nearest_code`.

    Args:
        vectors: (..., D).
        codebook: (K, D).
        metric: One of `METRICS`.
        weight: (D,) or None.
        exact: Whether the index must be exact.
        implementation: `SearchChoice.key`; empty for the installed implementations.

    Returns:
        Distance and index, both (...,).
    """
    rows = vectors.reshape(-1, vectors.shape[-1])
    if weight is not None:
        weight = _checked(weight)
    case = SearchCase(
        device=vectors.device.type,
        dtype=vectors.dtype,
        rows=rows.shape[0],
        codes=codebook.shape[0],
        width=codebook.shape[1],
        metric=metric,
        exact=exact,
        index=vectors.device.index,
    )
    choice = SearchChoice.from_key(implementation) if implementation else _installed(vectors.device)
    if not case.rows:
        return _empty(vectors)
    index, distance = choice.pick(case).run(rows, codebook, metric=metric, weight=weight, exact=exact)
    return distance.view(vectors.shape[:-1]), index.view(vectors.shape[:-1])


def _empty(vectors: Tensor) -> tuple[Tensor, Tensor]:
    wide = torch.promote_types(vectors.dtype, torch.float32)
    shape = vectors.shape[:-1]
    return vectors.new_empty(shape, dtype=wide), vectors.new_empty(shape, dtype=torch.int64)


def _checked(weight: Tensor) -> Tensor:
    """The weight as contiguous float64, checked here because a fake tensor in a trace has no values."""
    weight = weight.to(torch.float64).contiguous()
    capturing = weight.is_cuda and torch.cuda.is_current_stream_capturing()
    if not capturing and not bool((weight >= 0).logical_and(weight < torch.inf).all()):
        raise ValueError(
            "nearest_code: weight has entries that are negative, infinite or NaN "
            f"(least {weight.min().item():g}, largest {weight.max().item():g}); it must be finite and >= 0"
        )
    return weight


@nearest_code_operator.register_fake
def _fake(
    vectors: Tensor, codebook: Tensor, metric: str, weight: Tensor | None, exact: bool, implementation: str
) -> tuple[Tensor, Tensor]:
    return _empty(vectors)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    vectors, codebook, ctx.metric, weight, *_ = inputs
    ctx.save_for_backward(vectors, codebook, weight, output[1])


def _backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    vectors, codebook, weight, index = ctx.saved_tensors
    wide = gradient.dtype
    x, c = vectors.to(wide), codebook.to(wide)
    code = c[index.clamp(min=0)]  # rows without a code have NaN already and are left out of the sums below
    by_vector, by_code, by_weight = _pair_gradients(x, code, ctx.metric, weight)
    scale = gradient.unsqueeze(-1)
    wants_vectors, wants_codebook, _, wants_weight, *_ = ctx.needs_input_grad
    for_vectors = for_codebook = for_weight = None
    if wants_vectors:
        for_vectors = (by_vector * scale).to(vectors.dtype)
    if wants_codebook:
        _, sums = code_statistics(by_code * scale, index, codebook.shape[0])
        for_codebook = sums.to(codebook.dtype)
    if wants_weight and weight is not None:
        assert by_weight is not None
        by_row = torch.where(index.unsqueeze(-1) < 0, 0.0, by_weight * scale)
        for_weight = by_row.flatten(0, -2).sum(0).to(weight.dtype)
    return for_vectors, for_codebook, None, for_weight, None, None


def _pair_gradients(
    x: Tensor, c: Tensor, metric: str, weight: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Derivatives of the distance between each vector and its code: by x, by c, by the weight; (..., D)."""
    if metric == "cosine":
        return _cosine_gradient(x, c), _cosine_gradient(c, x), None
    difference = x - c
    if weight is None:
        return 2 * difference, -2 * difference, None
    slope = 2 * difference * weight.to(x.dtype)
    return slope, -slope, difference.square()


def _cosine_gradient(x: Tensor, other: Tensor) -> Tensor:
    """Derivative of 1 - cos by x; 0 where x or `other` is zero: the distance is constant there."""
    largest, other_largest = (y.detach().abs().amax(-1, keepdim=True) for y in (x, other))
    none = (largest == 0) | (other_largest == 0)
    largest, other_largest = (torch.where(none, 1.0, most) for most in (largest, other_largest))
    # Divide by the largest entry first: squares of small values underflow, those of large ones overflow.
    x, other = x / largest, other / other_largest
    norm = torch.where(none, 1.0, x.norm(dim=-1, keepdim=True))
    unit, other_unit = x / norm, other / torch.where(none, 1.0, other.norm(dim=-1, keepdim=True))
    cosine = (unit * other_unit).sum(-1, keepdim=True)
    return torch.where(none, 0.0, (unit * cosine - other_unit) / norm / largest)


nearest_code_operator.register_autograd(_backward, setup_context=_setup)


@nearest_code_operator.register_vmap
def _vmap(
    info: Any, in_dims: Sequence[int | None], *arguments: Any
) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
    """Batched vectors become rows of one search; batched codebooks or weights need one search each."""
    vectors, codebook, metric, weight, exact, implementation = arguments
    of_vectors, of_codebook, _, of_weight, *_ = in_dims
    if of_codebook is None and of_weight is None:
        moved = vectors.movedim(of_vectors, 0)
        return nearest_code_operator(moved, codebook, metric, weight, exact, implementation), (0, 0)
    if not info.batch_size:
        rows = vectors.shape if of_vectors is None else vectors.movedim(of_vectors, 0).shape[1:]
        return _empty(vectors.new_empty(0, *rows)), (0, 0)
    found = [
        nearest_code_operator(
            vectors if of_vectors is None else vectors.select(of_vectors, at),
            codebook if of_codebook is None else codebook.select(of_codebook, at),
            metric,
            weight if of_weight is None else weight.select(of_weight, at),
            exact,
            implementation,
        )
        for at in range(info.batch_size)
    ]
    distance, index = (torch.stack(results) for results in zip(*found, strict=True))
    return (distance, index), (0, 0)


@register_flop_formula(torch.ops.vtp.nearest_code)
def _flops(vectors: Sequence[int], codebook: Sequence[int], *_: object, **__: object) -> int:
    """Floating-point operations of the products of all vectors with all codes, from their shapes."""
    rows = torch.Size(vectors[:-1]).numel()
    return 2 * rows * codebook[0] * codebook[1]
