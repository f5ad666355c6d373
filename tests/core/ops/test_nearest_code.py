"""`nearest_code`: every implementation that runs here against its definition, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from tests.core.ops.nearest_code_oracle import (
    DATA,
    DTYPES,
    KERNELS,
    all_distances,
    drawn,
    log_uniform,
    nearest,
    squares_out_of_range,
)
from vtp_core.ops import SearchCase, SearchChoice, SearchKernel, nearest_code
from vtp_core.ops import nearest_code_torch as reference
from vtp_core.ops.nearest_code_distance import METRICS, distance_between, widened

pytestmark = pytest.mark.filterwarnings("error")

each_kernel = pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)


def search_case(vectors: Tensor, codebook: Tensor, metric: str, exact: bool = True) -> SearchCase:
    return SearchCase(
        device=vectors.device.type,
        dtype=vectors.dtype,
        rows=vectors.shape[:-1].numel(),
        codes=codebook.shape[0],
        width=codebook.shape[1],
        metric=metric,
        exact=exact,
    )


def drawn_weight(metric: str, width: int) -> Tensor | None:
    """Some entries are zero: those channels don't count."""
    return None if metric != "weighted" else torch.rand(width) * (torch.rand(width) < 0.8)


def strided(x: Tensor, layout: str) -> Tensor:
    """The same values behind other strides."""
    match layout:
        case "transposed":
            return x.T.contiguous().T
        case "gaps":
            wide = x.new_full((2 * x.shape[0], x.shape[1] + 3), 7.0)
            wide[::2, 1 : x.shape[1] + 1] = x
            return wide[::2, 1 : x.shape[1] + 1]
    return x


def check(
    kernel: SearchKernel, vectors: Tensor, codebook: Tensor, metric: Any, weight: Tensor | None = None
) -> None:
    expected, least = nearest(all_distances(vectors, codebook, metric, weight))
    index, distance = nearest_code(
        vectors, codebook, metric=metric, weight=weight, implementation=SearchChoice((kernel,))
    )
    assert index.dtype == torch.int64
    np.testing.assert_array_equal(index.numpy(), expected)
    wide = torch.float64 if vectors.dtype == torch.float64 else torch.float32
    assert distance.dtype == wide
    np.testing.assert_array_equal(distance.numpy(), torch.from_numpy(least).to(wide).numpy())


@each_kernel
@pytest.mark.parametrize("kind", DATA)
@given(
    metric=st.sampled_from(METRICS),
    rows=st.integers(0, 30),
    codes=st.integers(1, 70),
    width=st.sampled_from([1, 2, 3, 4, 7, 8, 9, 16, 17, 31, 64]),
    dtype=st.sampled_from(DTYPES),
    layouts=st.tuples(*[st.sampled_from(["dense", "transposed", "gaps"])] * 2),
    seed=st.integers(0, 2**16),
)
def test_equals_the_definition(
    kernel: SearchKernel,
    kind: str,
    metric: str,
    rows: int,
    codes: int,
    width: int,
    dtype: torch.dtype,
    layouts: tuple[str, str],
    seed: int,
) -> None:
    torch.manual_seed(seed)
    x, c = (
        strided(y, layout) for y, layout in zip(drawn(kind, rows, codes, width, dtype), layouts, strict=True)
    )
    assume(kernel.obstacle(search_case(x, c, metric)) is None)
    check(kernel, x, c, metric, drawn_weight(metric, width))


@each_kernel
@pytest.mark.parametrize("kind", ["normal", "duplicates", "clusters", "bimodal", "one huge", "offset"])
@pytest.mark.parametrize(
    ("rows", "codes", "width"), [(60, 4500, 8), (5, 9000, 20), (300, 130, 33), (2, 40, 4096)]
)
def test_many_codes(kernel: SearchKernel, kind: str, rows: int, codes: int, width: int) -> None:
    x, c = drawn(kind, rows, codes, width, torch.float32)
    check(kernel, x, c, "l2")


@each_kernel
@pytest.mark.parametrize("name", squares_out_of_range())
def test_squares_out_of_range(kernel: SearchKernel, name: str) -> None:
    x, c, weight = squares_out_of_range()[name]
    check(kernel, x, c, "l2" if weight is None else "weighted", weight)


@each_kernel
@given(
    codes=st.integers(1, 30),
    width=st.sampled_from([1, 3, 8, 17]),
    most=st.sampled_from([3, 80, 155, 170, 300]),
    heaviest=st.sampled_from([1, 40, 300]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 2**16),
)
def test_weights_of_any_size(
    kernel: SearchKernel, codes: int, width: int, most: int, heaviest: int, dtype: torch.dtype, seed: int
) -> None:
    torch.manual_seed(seed)
    most = min(most, 30) if dtype == torch.float32 else most
    x, c = (log_uniform(rows, width, most).to(dtype) for rows in (9, codes))
    check(kernel, x, c, "weighted", log_uniform(1, width, heaviest)[0].abs())


@pytest.mark.parametrize("kind", DATA)
@given(metric=st.sampled_from(METRICS), codes=st.integers(1, 7), seed=st.integers(0, 2**16))
def test_the_reference_shows_no_blocks(kind: str, metric: str, codes: int, seed: int) -> None:
    torch.manual_seed(seed)
    x, c = drawn(kind, 13, 20, 9, torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "BLOCK_CODES", codes)
        patch.setattr(reference, "BLOCK_SCORES", 3 * codes)
        patch.setattr(reference, "BLOCK_PAIRS", 18)
        check(reference.REFERENCE, x, c, metric, drawn_weight(metric, 9))


@each_kernel
@pytest.mark.parametrize("metric", METRICS)
def test_any_leading_shape(kernel: SearchKernel, metric: Any) -> None:
    x, c = drawn("normal", 24, 10, 5, torch.float32)
    weight = drawn_weight(metric, 5)
    choice = SearchChoice((kernel,))
    flat, distance = nearest_code(x, c, metric=metric, weight=weight, implementation=choice)
    for shape in ((24,), (2, 3, 4), (4, 0, 2), (1, 24), ()):
        rows = x[0] if shape == () else x[: int(np.prod(shape))].view(*shape, 5)
        found, far = nearest_code(rows, c, metric=metric, weight=weight, implementation=choice)
        assert found.shape == far.shape == shape
        assert torch.equal(found.flatten(), flat[: found.numel()])
        assert torch.equal(far.flatten(), distance[: far.numel()])
    spread, _ = nearest_code(x[:1].expand(6, 5), c, metric=metric, weight=weight, implementation=choice)
    assert spread.tolist() == [flat[0].item()] * 6


@each_kernel
@pytest.mark.parametrize("kind", ["normal", "duplicates", "clusters", "nan"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_threads_and_runs_change_no_bit(kernel: SearchKernel, kind: str, dtype: torch.dtype) -> None:
    x, c = drawn(kind, 1500, 1100, 24, dtype)
    results = []
    for threads in (1, 2, 3, 1):
        torch.set_num_threads(threads)
        results.append(nearest_code(x, c, implementation=SearchChoice((kernel,))))
    for index, distance in results[1:]:
        assert torch.equal(index, results[0][0])
        assert torch.equal(distance.view(torch.int32), results[0][1].view(torch.int32))


@each_kernel
@pytest.mark.parametrize("metric", METRICS)
@given(
    kind=st.sampled_from([kind for kind in DATA if kind not in ("infinite", "denormal")]),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**16),
)
def test_inexact_stays_within_its_bound(
    kernel: SearchKernel, metric: Any, kind: str, dtype: torch.dtype, seed: int
) -> None:
    torch.manual_seed(seed)
    x, c = drawn("normal" if kind == "extreme" and dtype == torch.float64 else kind, 20, 50, 12, dtype)
    assume(kernel.obstacle(search_case(x, c, metric, exact=False)) is None)
    weight = drawn_weight(metric, 12)
    index, distance = nearest_code(
        x, c, metric=metric, weight=weight, exact=False, implementation=SearchChoice((kernel,))
    )
    every = all_distances(x, c, metric, weight)
    root = 1.0 if weight is None else weight.double().sqrt()
    lengths = [(y * root).norm(dim=-1) for y in (widened(x, metric), widened(c, metric))]
    longest = lengths[1].nan_to_num(0).max()
    bound = 2**-7 * lengths[0] * longest + (12 + 16) * 2**-23 * (lengths[0] + longest).square()
    for n, row in enumerate(every):
        if np.isnan(row).all():
            assert index[n] == -1
            assert distance[n].isnan()
            continue
        found = row[int(index[n])]
        assert float(distance[n]) == float(torch.tensor(found).to(distance.dtype))
        assert found <= np.nanmin(row) + 2 * float(bound[n]) * (0.5 if metric == "cosine" else 1)


def test_the_definition_is_the_mathematical_distance() -> None:
    x, c = drawn("normal", 30, 30, 77, torch.float32)
    weight = torch.rand(77)
    expected = {
        "l2": (x.double() - c.double()).square().sum(-1),
        "weighted": ((x.double() - c.double()).square() * weight.double()).sum(-1),
        "cosine": 1 - torch.cosine_similarity(x.double(), c.double(), dim=-1),
    }
    for metric, distance in expected.items():
        wide = weight.double() if metric == "weighted" else None
        found = distance_between(widened(x, metric), widened(c, metric), metric, wide)
        torch.testing.assert_close(found, distance, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("metric", METRICS)
def test_nan_is_never_nearest(metric: Any) -> None:
    x, c = drawn("grid", 5, 6, 3, torch.float32)
    x[0], c[2] = torch.nan, torch.nan
    weight = torch.ones(3) if metric == "weighted" else None
    index, distance = nearest_code(x, c, metric=metric, weight=weight)
    assert index[0] == -1
    assert distance[0].isnan()
    assert 2 not in index.tolist()
    index, distance = nearest_code(x, c * torch.nan, metric=metric, weight=weight)
    assert index.tolist() == [-1] * 5
    assert bool(distance.isnan().all())


def test_roots_are_rounded_correctly() -> None:
    x = torch.rand(100_000, 1, dtype=torch.float64) * 10.0 ** torch.randint(-9, 10, (100_000, 1))
    np.testing.assert_array_equal(widened(x, "cosine").numpy(), x.numpy() * (1 / np.sqrt((x * x).numpy())))


def test_nothing_of_rows_times_codes_is_stored() -> None:
    class Largest(torch.utils._python_dispatch.TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor):
                self.elements = max(self.elements, out.numel())
            return out

    sizes = []
    for rows in (1000, 2000):
        x, c = drawn("normal", rows, 6000, 4, torch.float32)
        with Largest() as seen:
            reference.search(x, c, metric="l2", weight=None, exact=True)
        sizes.append(seen.elements)
    assert sizes[0] == sizes[1] <= reference.BLOCK_SCORES
