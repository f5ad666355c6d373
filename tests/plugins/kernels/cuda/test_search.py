"""The CUDA search, executed on the CPU: the definition's index and distance, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.core.ops.nearest_code_oracle import (
    DATA,
    DTYPES,
    all_distances,
    drawn,
    nearest,
    squares_out_of_range,
)
from tests.plugins.kernels.cuda.shim import METRICS, Shim

pytestmark = pytest.mark.slow


def check(
    shim: Shim,
    x: Tensor,
    c: Tensor,
    metric: str = "l2",
    weight: Tensor | None = None,
    *,
    seed: int = 1,
    chunk: int = 0,
    processors: int = 1,
) -> tuple[int, int]:
    if metric == "weighted" and weight is None:
        weight = torch.rand(x.shape[1]).double()
    index, distance, levels = shim.search(x, c, metric, weight, seed=seed, chunk=chunk, processors=processors)
    wanted, least = nearest(all_distances(x, c, metric, weight))
    np.testing.assert_array_equal(index, wanted)
    if x.dtype != torch.float64:
        with np.errstate(over="ignore"):
            least = least.astype(np.float32).astype(np.float64)
    np.testing.assert_array_equal(distance, least)
    return levels


@pytest.mark.parametrize("width", [1, 7, 16, 17, 32, 48, 64, 65, 130])
def test_any_width(shim: Shim, width: int) -> None:
    check(shim, torch.randn(70, width), torch.randn(200, width), seed=width)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_any_dtype_and_metric(shim: Shim, dtype: torch.dtype, metric: str) -> None:
    check(shim, torch.randn(40, 24).to(dtype), torch.randn(150, 24).to(dtype), metric)


@pytest.mark.parametrize("kind", DATA)
@pytest.mark.parametrize("metric", METRICS)
def test_data_that_is_hard_to_search(shim: Shim, kind: str, metric: str) -> None:
    dtype = torch.float64 if kind in ("denormal", "extreme") else torch.float32
    check(shim, *drawn(kind, 40, 130, 12, dtype), metric)


@pytest.mark.parametrize("name", squares_out_of_range())
def test_squares_out_of_range(shim: Shim, name: str) -> None:
    x, c, weight = squares_out_of_range()[name]
    check(shim, x, c, "l2" if weight is None else "weighted", weight)


@settings(max_examples=25)
@given(
    rows=st.integers(1, 40),
    codes=st.integers(1, 150),
    width=st.integers(1, 70),
    kind=st.sampled_from(DATA),
    metric=st.sampled_from(METRICS),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**32),
)
def test_any_case_in_any_order(
    shim: Shim, rows: int, codes: int, width: int, kind: str, metric: str, dtype: torch.dtype, seed: int
) -> None:
    torch.manual_seed(seed)
    check(shim, *drawn(kind, rows, codes, width, dtype), metric, seed=seed)


def test_blocks_of_rows_and_splits_of_codes(shim: Shim) -> None:
    check(shim, torch.randn(300, 16), torch.randn(700, 16), chunk=256, processors=8, seed=3)


def test_rows_with_a_stride(shim: Shim) -> None:
    x = torch.randn(33, 40)[:, 5:29]
    index, _, _ = shim.search(x, c := torch.randn(90, 24))
    wanted, _ = nearest(all_distances(x, c, "l2", None))
    np.testing.assert_array_equal(index, wanted)


def test_no_rows(shim: Shim) -> None:
    index, distance, _ = shim.search(torch.empty(0, 8), torch.randn(5, 8))
    assert index.shape == distance.shape == (0,)


def test_ordinary_data_is_decided_by_the_first_screen(shim: Shim) -> None:
    assert check(shim, torch.randn(256, 32), torch.randn(512, 32)) == (0, 0)
    assert check(shim, 100 + torch.randn(64, 32), 100 + torch.randn(512, 32)) == (0, 0)


def test_one_huge_code_leaves_the_rest_as_they_were(shim: Shim) -> None:
    c = torch.randn(256, 16)
    c[70] *= 1e30
    assert check(shim, torch.randn(64, 16), c) == (0, 0)


@pytest.mark.parametrize("exact", ["vectors", "codes"])
def test_rounding_of_one_side_alone_is_within_the_window(shim: Shim, exact: str) -> None:
    """The codes' mean is 0, so what bfloat16 holds stays exact; near ties need the other side's bound."""
    if exact == "vectors":
        x = torch.randn(60, 24).bfloat16().float()
        c = torch.randn(20, 24).repeat(8, 1) * (1 + 2e-3 * torch.randn(160, 24))
    else:
        x, c = 8 * torch.rand(1500, 3) - 4, (8 * torch.rand(1000, 3) - 4).bfloat16().float()
    check(shim, x, torch.cat((c, -c)))


def test_near_ties_go_through_every_level(shim: Shim) -> None:
    x = torch.randn(40, 16)
    pairs = torch.randn(60, 16).repeat_interleave(40, 0) * (1 + 1e-5 * torch.randn(2400, 1))
    undecided, _ = check(shim, pairs[::60], pairs)
    assert undecided > 0
    _, scanned = check(shim, x, torch.randn(1, 16).repeat(100, 1))
    assert scanned == len(x)


def test_more_codes_out_of_range_than_can_be_set_apart(shim: Shim) -> None:
    x, c = torch.randn(20, 8), torch.randn(200, 8)
    c[::2] = torch.inf
    _, scanned = check(shim, x, c)
    assert scanned == len(x)
