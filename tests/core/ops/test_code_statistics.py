"""`code_statistics`: sums by code against a one-hot matmul, the same bits for any number of threads."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from vtp_core.ops import code_statistics
from vtp_core.ops.code_statistics import code_statistics_operator, sums_by_sorting


def by_one_hot(vectors: Tensor, index: Tensor, codes: int) -> tuple[Tensor, Tensor]:
    chosen = F.one_hot(index.flatten() + 1, codes + 1)[:, 1:].double()
    return chosen.sum(0), chosen.T @ vectors.flatten(0, -2).double()


@given(
    rows=st.integers(0, 40),
    codes=st.integers(1, 12),
    width=st.integers(1, 9),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
    seed=st.integers(0, 2**16),
)
def test_equals_a_one_hot_matmul(rows: int, codes: int, width: int, dtype: torch.dtype, seed: int) -> None:
    torch.manual_seed(seed)
    vectors, index = torch.randn(rows, width).to(dtype), torch.randint(-1, codes, (rows,))
    counts, sums = code_statistics(vectors, index, codes)
    expected_counts, expected_sums = by_one_hot(vectors, index, codes)
    assert counts.dtype == sums.dtype == torch.promote_types(dtype, torch.float32)
    assert torch.equal(counts.double(), expected_counts)
    torch.testing.assert_close(sums.double(), expected_sums, rtol=1e-5, atol=1e-5)


def test_leading_axes_and_strides() -> None:
    vectors = torch.randn(5, 4, 3).transpose(0, 1)
    index = torch.randint(-1, 6, (5, 4)).T
    counts, sums = code_statistics(vectors, index, 6)
    expected = by_one_hot(vectors.contiguous(), index.contiguous(), 6)
    assert torch.equal(counts.double(), expected[0])
    torch.testing.assert_close(sums.double(), expected[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("rows", "codes", "width"), [(20_000, 7, 16), (20_000, 4096, 8), (300, 16384, 3)])
def test_threads_and_runs_change_no_bit(rows: int, codes: int, width: int) -> None:
    vectors, index = torch.randn(rows, width), torch.randint(-1, codes, (rows,))
    results = []
    for threads in (1, 2, 4, 2):
        torch.set_num_threads(threads)
        results.append(code_statistics(vectors, index, codes)[1])
    assert all(torch.equal(result, results[0]) for result in results[1:])


@pytest.mark.parametrize(("rows", "codes"), [(2000, 50), (10, 100), (0, 3)])
def test_the_sort_that_serves_a_gpu(rows: int, codes: int) -> None:
    vectors, index = torch.randn(rows, 6, dtype=torch.float64), torch.randint(0, codes, (rows,))
    counts, sums = code_statistics(vectors, index, codes)
    sorted_sums = sums_by_sorting(vectors, index, counts.long())
    torch.testing.assert_close(sorted_sums, sums, rtol=1e-12, atol=1e-12)


# What opcheck itself warns of: it reads .grad of copies.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("gradient", [False, True])
def test_opcheck(gradient: bool) -> None:
    vectors = torch.randn(2, 6, 3, requires_grad=gradient)
    torch.library.opcheck(code_statistics_operator, (vectors, torch.randint(-1, 4, (2, 6)), 4))


def test_gradients() -> None:
    vectors = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    index = torch.tensor([0, 2, 2, -1, 1, 0, 2])

    def sums(vectors: Tensor) -> Tensor:
        return code_statistics(vectors, index, 4)[1]

    assert torch.autograd.gradcheck(sums, (vectors,))
    assert torch.autograd.gradgradcheck(sums, (vectors,))


def test_compiles_to_one_graph() -> None:
    compiled = torch.compile(code_statistics, fullgraph=True, backend="aot_eager")
    vectors, index = torch.randn(9, 3), torch.randint(-1, 4, (9,))
    torch.testing.assert_close(
        compiled(vectors, index, 4), code_statistics(vectors, index, 4), rtol=0, atol=0
    )


def test_vmap_over_nothing() -> None:
    vectors, index = torch.zeros(5, 2, 0), torch.zeros(0, 5, dtype=torch.int64)
    counts, sums = torch.vmap(lambda x, at: code_statistics(x, at, 4), in_dims=(2, 0))(vectors, index)
    assert counts.shape == (0, 4) and sums.shape == (0, 4, 2)


@pytest.mark.parametrize("batched", [(0, 0), (0, None), (None, 0)])
def test_vmap(batched: tuple[int | None, int | None]) -> None:
    vectors, index = torch.randn(3, 5, 2), torch.randint(-1, 4, (3, 5))
    given = [x[0] if dim is None else x for x, dim in zip((vectors, index), batched, strict=True)]
    counts, sums = torch.vmap(lambda x, at: code_statistics(x, at, 4), in_dims=batched)(*given)
    for at in range(3):
        one = code_statistics(
            *[x if dim is None else x[at] for x, dim in zip(given, batched, strict=True)], 4
        )
        assert torch.equal(counts[at], one[0])
        assert torch.equal(sums[at], one[1])


@pytest.mark.parametrize(
    ("vectors", "index", "codes", "message"),
    [
        (torch.zeros(3, 2), torch.zeros(4, dtype=torch.int64), 2, r"vectors are \(3, 2\).*index is \(4,\)"),
        (torch.zeros(3, 2), torch.zeros(3), 2, "index int64.*float32"),
        (torch.zeros(3, 2, dtype=torch.int64), torch.zeros(3, dtype=torch.int64), 2, "floating point"),
        (torch.zeros(3, 2), torch.tensor([0, 2, 1]), 2, "index runs from 0 to 2, codes are 0 to 1"),
        (torch.zeros(3, 2), torch.tensor([0, -2, 1]), 2, "index runs from -2 to 1"),
        (torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64), 0, "codes must be at least 1, got 0"),
        (torch.zeros(()), torch.zeros((), dtype=torch.int64), 2, r"vectors are \(\)"),
    ],
)
def test_bad_arguments_are_named(vectors: Tensor, index: Tensor, codes: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        code_statistics(vectors, index, codes)
