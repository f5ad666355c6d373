"""The C++ search on each instruction set that this processor has, against the definition, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.core.ops.nearest_code_oracle import DATA, DTYPES, all_distances, drawn, nearest
from vtp_core.ops.nearest_code_distance import METRICS
from vtp_plugins.kernels.cpu.search import KERNEL
from vtp_plugins.kernels.native.loading import why_missing

pytestmark = pytest.mark.skipif(why_missing("_C_cpu") is not None, reason=f"_C_cpu {why_missing('_C_cpu')}")

COUNTERS = ("evaluated", "redone", "threshold", "doubled", "compared")


@pytest.fixture(scope="module", params=["portable", "avx2", "avx512", "avx512bf16"])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set in turn; skips what the processor lacks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VTP_CPU_ISA", request.param)
        try:
            torch.ops.vtp_cpu.isa()
        except RuntimeError as error:
            pytest.skip(str(error).partition("\n")[0])
        yield request.param


def check(x: Tensor, c: Tensor, metric: str = "l2", weight: Tensor | None = None) -> None:
    """Index and distance must be the definition's, to the last bit."""
    expected, least = nearest(all_distances(x, c, metric, weight))
    index, distance = KERNEL.run(x, c, metric=metric, weight=weight, exact=True)
    np.testing.assert_array_equal(index.numpy(), expected)
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    assert distance.dtype == wide
    np.testing.assert_array_equal(distance.numpy(), torch.from_numpy(least).to(wide).numpy())


def counted(x: Tensor, c: Tensor) -> dict[str, int]:
    counters = torch.ops.vtp_cpu.nearest_code_counters(x, c, "l2", None, True)
    return dict(zip(COUNTERS, counters, strict=True))


@pytest.mark.parametrize("kind", DATA)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.integers(1, 110),
    codes=st.integers(1, 200),
    width=st.sampled_from([1, 2, 3, 5, 8, 13, 16, 24, 33, 64, 129]),
    dtype=st.sampled_from(DTYPES),
    metric=st.sampled_from(METRICS),
    gaps=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_equals_the_definition(
    isa: str,
    kind: str,
    rows: int,
    codes: int,
    width: int,
    dtype: torch.dtype,
    metric: str,
    gaps: bool,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    x, c = drawn(kind, rows, codes, width, dtype)
    weight = (torch.rand(width) * (torch.rand(width) < 0.8)).double() if metric == "weighted" else None
    check(x.T.contiguous().T if gaps else x, c, metric, weight)


# Kept apart so that each way through the search is seen to be taken; the numbers are rows of `x`.
@pytest.mark.usefixtures("isa")
def test_codes_in_close_pairs_take_a_second_screen() -> None:
    torch.manual_seed(0)
    x, c = torch.randn(200, 24), torch.randn(512, 24)
    c = torch.cat([c, c * (1 + 1e-6)])
    assert counted(x, c)["threshold"] == 200
    check(x, c)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("width", [8, 140])
def test_codes_that_float32_cannot_resolve_take_float64(width: int) -> None:
    torch.manual_seed(0)
    x, c = torch.randn(150, width), torch.randn(300, width)
    x, c = 0.1 * x + 100, 0.1 * c + 100 * (torch.randint(0, 2, (300, 1)) * 2 - 1)
    ways = counted(x, c)
    assert ways["doubled"] >= 90  # of the first block; the others go there at once
    assert ways["evaluated"] < 100 * 150
    check(x, c)


def test_a_screen_in_bfloat16_hands_on_what_is_close(isa: str) -> None:
    torch.manual_seed(0)
    x, c = torch.randn(300, 32), torch.randn(800, 32)
    redone = counted(x, c)["redone"]
    assert (0 < redone < 60) if isa == "avx512bf16" else redone == 0
    check(x, c)


@pytest.mark.usefixtures("isa")
def test_a_common_offset_and_a_huge_code_cost_no_second_screen() -> None:
    torch.manual_seed(0)
    x, c = torch.randn(300, 16) + 1e4, torch.randn(700, 16) + 1e4
    c[5] *= 1e20
    ways = counted(x, c)
    assert ways["doubled"] == ways["compared"] == 0
    assert ways["threshold"] <= 3
    check(x, c)


@pytest.mark.usefixtures("isa")
def test_equal_codes_are_searched_once() -> None:
    torch.manual_seed(0)
    x, c = torch.randn(100, 8), torch.randn(40, 8)
    alone, thrice = counted(x, c), counted(x, c.repeat(3, 1))
    assert alone == thrice
    check(x, c.repeat(3, 1))


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize(
    ("rows", "codes", "width", "dtype"),
    [
        (3, 2**20, 2, torch.float32),
        (2, 2**20, 1, torch.bfloat16),
        (40, 70, 4096, torch.float32),
        (13, 33, 4096, torch.float64),
        (7, 50, 4095, torch.float16),
        (1, 1, 1, torch.float64),
    ],
)
def test_the_ends_of_the_range_of_shapes(rows: int, codes: int, width: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    check(torch.randn(rows, width).to(dtype), torch.randn(codes, width).to(dtype))


@pytest.mark.usefixtures("isa")
def test_no_rows() -> None:
    index, distance = KERNEL.run(torch.empty(0, 4), torch.randn(3, 4), metric="l2", weight=None, exact=True)
    assert index.shape == distance.shape == (0,)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("kind", ["normal", "clusters", "bimodal", "infinite"])
def test_runs_and_threads_change_no_bit(kind: str, exact: bool) -> None:
    torch.manual_seed(0)
    x, c = drawn(kind, 1200, 700, 20, torch.float32)
    before = torch.get_num_threads()
    found = []
    for threads in (1, 2, 3, 1):
        torch.set_num_threads(threads)
        found.append(KERNEL.run(x, c, metric="l2", weight=None, exact=exact))
    torch.set_num_threads(before)
    for index, distance in found[1:]:
        assert torch.equal(index, found[0][0])
        assert torch.equal(distance.view(torch.int32), found[0][1].view(torch.int32))


@pytest.mark.usefixtures("isa")
def test_flushed_denormals_change_nothing() -> None:
    torch.manual_seed(0)
    x, c = drawn("denormal", 60, 90, 12, torch.float32)
    expected, _ = nearest(all_distances(x, c, "l2", None))
    assert torch.set_flush_denormal(True)
    try:
        index, _ = KERNEL.run(x, c, metric="l2", weight=None, exact=True)
    finally:
        torch.set_flush_denormal(False)
    np.testing.assert_array_equal(index.numpy(), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vectors": torch.randn(2, 5)}, r"vectors must be \(N, D\) and codebook \(K, D\)"),
        ({"vectors": torch.randn(4)}, r"vectors must be \(N, D\)"),
        ({"codebook": torch.randn(0, 4)}, "codebook has no code"),
        ({"codebook": torch.randn(3, 4).double()}, "differ in dtype"),
        ({"vectors": torch.ones(2, 4).int(), "codebook": torch.ones(3, 4).int()}, "must be float32"),
        ({"metric": "l1"}, 'metric "l1" is unknown'),
        ({"metric": "weighted"}, "weight goes with"),
        ({"weight": torch.ones(4).double()}, "weight goes with"),
        ({"metric": "weighted", "weight": torch.ones(3).double()}, r"weight must be \(D,\) float64"),
        ({"metric": "weighted", "weight": torch.ones(4)}, r"weight must be \(D,\) float64"),
    ],
)
def test_bad_arguments_of_the_bare_operator_are_errors(change: dict[str, object], message: str) -> None:
    arguments = {
        "vectors": torch.randn(2, 4),
        "codebook": torch.randn(3, 4),
        "metric": "l2",
        "weight": None,
        "exact": True,
        **change,
    }
    with pytest.raises(RuntimeError, match=message):
        torch.ops.vtp_cpu.nearest_code(*arguments.values())
