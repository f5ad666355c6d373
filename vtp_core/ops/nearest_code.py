"""The nearest code of each vector: exact, the same on every device and instruction set.

    index, distance = nearest_code(vectors, codebook)

The contract is here; `nearest_code_distance` defines the distance, `nearest_code_torch` is the reference,
`nearest_code_operator` is the torch operator, `nearest_code_choice` the choice of implementations.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from vtp_core.ops.arguments import DTYPES, require_kind, require_tensor
from vtp_core.ops.describe import described
from vtp_core.ops.installed import installed, installed_ranking, ranked_device
from vtp_core.ops.nearest_code_choice import SearchChoice, SearchKernel
from vtp_core.ops.nearest_code_distance import METRICS, Metric
from vtp_core.ops.nearest_code_operator import nearest_code_operator
from vtp_core.ops.nearest_code_torch import REFERENCE
from vtp_core.ops.ranking import Ranking


def search_choice(
    name: str = "auto", kernels: Sequence[SearchKernel] | None = None, ranking: Ranking | None = None
) -> SearchChoice:
    """The implementations that ``[kernels] nearest_code = name`` allows.

    Args:
        name: ``"auto"``, ``"reference"`` or the name of one of `kernels`.
        kernels: Implementations of plugins, preferred in this order, by default those that are installed;
            ``auto`` takes the reference last.
        ranking: Measured order for ``auto``. Default: with installed kernels, that of the current device.

    Raises:
        UsageError: There is no such implementation.
    """
    if kernels is None:
        kernels = installed(SearchKernel)
        if name == "auto" and ranking is None:
            ranking = installed_ranking(SearchChoice, ranked_device())
    return SearchChoice.named(name, (*kernels, REFERENCE), ranking)


def nearest_code(
    vectors: Tensor,
    codebook: Tensor,
    *,
    metric: Metric = "l2",
    weight: Tensor | None = None,
    exact: bool = True,
    implementation: SearchChoice | None = None,
) -> tuple[Tensor, Tensor]:
    """The index of the nearest code of each vector, and the distance to it.

    The index is that of the least float64 distance on the inputs as given (`nearest_code_distance` defines it
    to the last bit), the lowest one on a tie, identical in every implementation. N x K is never stored.

    Distances: ``l2`` sum (x - c)^2; ``weighted`` sum w (x - c)^2; ``cosine`` 1 - cos, where zero vectors have
    cosine 0 with every vector. All are computed from differences, so they are never negative.

    A distance that is NaN is never the least: a row with a NaN gets index -1 and distance NaN, a code with a
    NaN is never chosen. Infinities follow IEEE arithmetic: whatever has one is infinitely far, and a code at
    infinity is chosen only when none is nearer; where two infinities cancel, and for ``cosine``, the distance
    is NaN.

    The distance has gradients to vectors, codebook and weight (at the index found; 0 for ``cosine`` without a
    direction), the index has none.

    Args:
        vectors: (..., D) float32, float64, bfloat16 or float16, any strides; D from 1 to 4096.
        codebook: (K, D), same dtype and device; K from 1 to 2^20.
        metric: ``"l2"``, ``"cosine"`` or ``"weighted"``.
        weight: (D,) of any floating dtype, finite and >= 0; for ``weighted`` only.
        exact: False allows a faster search whose code k is nearly the nearest: d(k) <= min d + 2 e with
            e = 2^-7 |x| C + (D + 16) 2^-23 (|x| + C)^2, C the largest norm of the codes (``weighted``: of
            vectors times sqrt(w); ``cosine``: of unit vectors). The distance returned is that of code k.
        implementation: From `search_choice`. Default: ``auto`` among installed implementations.

    Returns:
        Index (...,) int64, and distance (...,) float32, float64 for float64 inputs.

    Raises:
        TypeError: An argument is no tensor, or none of the type above; names it.
        ValueError: Shapes, dtypes, devices, metric or weight don't fit; names the argument.
        UsageError: The chosen implementation can't run the case.
    """
    require_tensor("nearest_code", "vectors", vectors)
    require_tensor("nearest_code", "codebook", codebook)
    if weight is not None:
        require_tensor("nearest_code", "weight", weight)
    require_kind("nearest_code", "metric", metric, str, f"one of {', '.join(METRICS)}")
    require_kind("nearest_code", "exact", exact, bool, "True or False")
    if implementation is not None:
        require_kind("nearest_code", "implementation", implementation, SearchChoice, "a search_choice(...)")
    if complaint := _complaint(vectors, codebook, metric, weight):
        both = f"vectors are {described(vectors)}, codebook is {described(codebook)}"
        raise ValueError(f"nearest_code: {complaint}; {both}")
    key = "" if implementation is None else implementation.key
    distance, index = nearest_code_operator(vectors, codebook, metric, weight, exact, key)
    return index, distance


_WIDEST = 4096
_MOST = 2**20


def _complaint(vectors: Tensor, codebook: Tensor, metric: str, weight: Tensor | None) -> str | None:
    """The first error in the arguments, or None."""
    if vectors.dtype not in DTYPES:
        return "vectors must be floating point of 16 to 64 bits"
    if vectors.dim() < 1 or codebook.dim() != 2:
        return "vectors must be (..., D) and codebook (K, D)"
    codes, width = codebook.shape
    if vectors.shape[-1] != width:
        return "codebook and vectors differ in their last axis"
    if not 1 <= width <= _WIDEST:
        return f"the width of vectors must be from 1 to {_WIDEST}"
    if not 1 <= codes <= _MOST:
        return f"codebook must have from 1 to {_MOST} codes"
    if codebook.dtype != vectors.dtype or codebook.device != vectors.device:
        return "codebook and vectors differ in dtype or device"
    if metric not in METRICS:
        return f'metric "{metric}" is unknown; known: {", ".join(METRICS)}'
    if (metric == "weighted") != (weight is not None):
        return f'metric "{metric}" {"needs a weight" if weight is None else "takes no weight"}'
    if weight is not None and not (
        weight.shape == (width,) and weight.dtype in DTYPES and weight.device == vectors.device
    ):
        return f"weight must be floating point ({width},) on the device of vectors, got {described(weight)}"
    return None
