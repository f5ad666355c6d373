"""The searches of a GPU against the definition, in numpy on the CPU. Run by `make gpu`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.core.ops.nearest_code_oracle import DATA, all_distances, drawn, nearest, squares_out_of_range
from tests.plugins.kernels.gpu.device import DEVICE, MARKS, SEARCH, other_stream, search
from vtp_core.ops import nearest_code, search_choice

pytestmark = MARKS

FAST = ("cuda", "triton")
METRICS = ("l2", "weighted", "cosine")


def check(
    name: str, vectors: Tensor, codebook: Tensor, metric: Any = "l2", weight: Tensor | None = None
) -> None:
    if metric == "weighted" and weight is None:
        weight = torch.rand(vectors.shape[1], dtype=torch.float64)
    expected, least = nearest(all_distances(vectors, codebook, metric, weight))
    index, distance = nearest_code(
        vectors.to(DEVICE),
        codebook.to(DEVICE),
        metric=metric,
        weight=None if weight is None else weight.to(DEVICE),
        implementation=search(name),
    )
    np.testing.assert_array_equal(index.cpu().numpy(), expected)
    wide = torch.promote_types(vectors.dtype, torch.float32)
    np.testing.assert_array_equal(distance.cpu().numpy(), torch.from_numpy(least).to(wide).numpy())


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", SEARCH)
def test_every_screen_equals_the_definition(name: str, metric: str) -> None:
    check(name, *drawn("normal", 300, 700, 20, torch.float32), metric)


@pytest.mark.parametrize("kind", DATA)
@pytest.mark.parametrize("name", FAST)
def test_data_that_is_hard_to_search(name: str, kind: str) -> None:
    for metric in METRICS:
        check(name, *drawn(kind, 100, 300, 12, torch.float32), metric)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", FAST)
def test_other_dtypes(name: str, dtype: torch.dtype) -> None:
    for kind in ("normal", "range", "extreme" if dtype == torch.float64 else "pairs"):
        for metric in METRICS:
            check(name, *drawn(kind, 90, 260, 12, dtype), metric)


@pytest.mark.parametrize("name", FAST)
def test_squares_out_of_range(name: str) -> None:
    for x, c, weight in squares_out_of_range().values():
        check(name, x, c, "l2" if weight is None else "weighted", weight)


@pytest.mark.parametrize(
    ("rows", "codes", "width"),
    [(1, 1, 1), (3, 1, 70), (130, 3, 2), (5, 1300, 150), (257, 129, 8), (33, 70, 768), (2, 3, 4096)],
)
@pytest.mark.parametrize("name", FAST)
def test_shapes(name: str, rows: int, codes: int, width: int) -> None:
    check(name, *drawn("normal", rows, codes, width, torch.float32))


@pytest.mark.parametrize("name", FAST)
def test_strides(name: str) -> None:
    vectors, codebook = (x.to(DEVICE) for x in drawn("normal", 40, 140, 6, torch.float32))
    plain = nearest_code(vectors, codebook, implementation=search(name))
    wide = torch.cat((codebook + 1, codebook), 1)
    strided = nearest_code(vectors.T.contiguous().T, wide[:, 6:], implementation=search(name))
    assert all(torch.equal(x, y) for x, y in zip(plain, strided, strict=True))


@pytest.mark.parametrize(("codes", "width"), [(1024, 64), (8192, 8), (16384, 64), (65536, 8), (4096, 768)])
@pytest.mark.parametrize("name", FAST)
def test_codebooks_of_tokenizers(name: str, codes: int, width: int) -> None:
    """Against the torch implementation in float64 on the CPU; twice, and on another stream, equal bits."""
    x, c = drawn("normal", 1024, codes, width, torch.float32)
    expected, least = nearest_code(x, c, implementation=search_choice("reference", []))
    on_device = x.to(DEVICE), c.to(DEVICE)
    first = nearest_code(*on_device, implementation=search(name))
    assert torch.equal(first[0].cpu(), expected)
    torch.testing.assert_close(first[1].cpu(), least, rtol=1e-6, atol=0)
    with other_stream():
        second = nearest_code(*on_device, implementation=search(name))
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])


@pytest.mark.parametrize("name", FAST)
def test_gradients_and_compile(name: str) -> None:
    x, c = (y.to(DEVICE).requires_grad_() for y in drawn("normal", 50, 60, 8, torch.float32))

    def distance(x: Tensor, c: Tensor) -> Tensor:
        return nearest_code(x, c, implementation=chosen)[1].sum()

    chosen = search(name)
    found = torch.autograd.grad(distance(x, c), (x, c))
    compiled = torch.compile(distance, backend="aot_eager", fullgraph=True)
    again = torch.autograd.grad(compiled(x, c), (x, c))
    cpu = [y.detach().cpu().requires_grad_() for y in (x, c)]
    expected = torch.autograd.grad(
        nearest_code(*cpu, implementation=search_choice("reference", []))[1].sum(), cpu
    )
    for mine, mine_again, right in zip(found, again, expected, strict=True):
        torch.testing.assert_close(mine.cpu(), right, rtol=1e-5, atol=1e-5)
        assert torch.equal(mine, mine_again)
