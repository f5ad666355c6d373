"""What torch.library knows of `nearest_code`: opcheck, compile, gradients, vmap; the choice; bad input."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.core.ops.nearest_code_oracle import KERNELS, drawn
from vtp_core.errors import UsageError
from vtp_core.ops import SearchCase, SearchChoice, SearchKernel, nearest_code, search_choice
from vtp_core.ops.nearest_code_distance import METRICS
from vtp_core.ops.nearest_code_operator import nearest_code_operator
from vtp_core.ops.nearest_code_torch import REFERENCE

each_kernel = pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
each_metric = pytest.mark.parametrize("metric", METRICS)


def leaves(*tensors: Tensor) -> list[Tensor]:
    return [tensor.detach().clone().requires_grad_() for tensor in tensors]


def some_weight(metric: str, width: int, dtype: torch.dtype = torch.float32) -> Tensor | None:
    return torch.rand(width, dtype=dtype) + 0.1 if metric == "weighted" else None


@each_kernel
@each_metric
# What opcheck itself warns of: it reads .grad of copies.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("gradient", [False, True])
def test_opcheck(kernel: SearchKernel, metric: str, gradient: bool) -> None:
    x, c = drawn("normal", 12, 7, 5, torch.float32)
    weight = some_weight(metric, 5)
    if gradient:
        x, c = leaves(x, c)
    if gradient and weight is not None:
        weight.requires_grad_()
    key = SearchChoice((kernel,)).key
    for vectors in (x, x.view(3, 4, 5), x[:0]):
        torch.library.opcheck(nearest_code_operator, (vectors, c, metric, weight, True, key))


@each_kernel
@each_metric
def test_gradients_in_float64(kernel: SearchKernel, metric: Any) -> None:
    x, c = leaves(*drawn("normal", 6, 4, 3, torch.float64))
    weight = some_weight(metric, 3, torch.float64)
    weights = () if weight is None else (weight.requires_grad_(),)

    def distance(x: Tensor, c: Tensor, *weights: Tensor) -> Tensor:
        choice = SearchChoice((kernel,))
        return nearest_code(
            x.view(2, 3, 3), c, metric=metric, weight=next(iter(weights), None), implementation=choice
        )[1]

    inputs = (x, c, *weights)
    assert torch.autograd.gradcheck(distance, inputs)
    assert torch.autograd.gradgradcheck(distance, inputs)


@each_metric
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_are_those_of_the_formula(metric: Any, dtype: torch.dtype) -> None:
    x, c = leaves(*drawn("normal", 50, 20, 9, dtype))
    weight = some_weight(metric, 9)
    wide = [y.detach().double().requires_grad_() for y in (x, c)]
    index, distance = nearest_code(x, c, metric=metric, weight=weight)
    code = wide[1][index]
    formula = {
        "l2": lambda: (wide[0] - code).square().sum(-1),
        "weighted": lambda: ((wide[0] - code).square() * weight).sum(-1),
        "cosine": lambda: 1 - F.cosine_similarity(wide[0], code, dim=-1),
    }[metric]()
    upstream = torch.randn(50)
    (distance * upstream).sum().backward()
    (formula * upstream).sum().backward()
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    for found, expected in zip((x, c), wide, strict=True):
        assert found.grad is not None and expected.grad is not None
        assert found.grad.dtype == dtype
        torch.testing.assert_close(found.grad.double(), expected.grad, rtol=tolerance, atol=tolerance)
    assert not index.requires_grad


@each_metric
def test_rows_without_a_code_spoil_no_other_gradient(metric: Any) -> None:
    x, c = drawn("normal", 8, 3, 4, torch.float32)
    x[2] = torch.nan
    x, c = leaves(x, c)
    weight = some_weight(metric, 4)
    if weight is not None:
        weight.requires_grad_()
    _, distance = nearest_code(x, c, metric=metric, weight=weight)
    distance.sum().backward()
    assert x.grad is not None and c.grad is not None
    assert bool(x.grad[2].isnan().all())
    assert bool(x.grad[[0, 1, 3]].isfinite().all())
    assert bool(c.grad.isfinite().all())
    assert weight is None or bool(weight.grad.isfinite().all())  # type: ignore[union-attr]


def test_cosine_without_a_direction_has_no_gradient() -> None:
    x, c = leaves(torch.zeros(3, 4), torch.randn(2, 4))
    _, distance = nearest_code(x, c, metric="cosine")
    distance.sum().backward()
    assert distance.tolist() == [1, 1, 1]
    assert x.grad is not None and c.grad is not None
    assert not x.grad.any()
    assert not c.grad.any()


@pytest.mark.parametrize("sizes", [(1.0, 1e-25), (1e-25, 1.0), (1e-30, 1e-30), (1e-6, 1e25), (1e30, 1e-3)])
def test_cosine_gradients_of_vectors_of_any_length(sizes: tuple[float, float]) -> None:
    """The length of the one divides the gradient; squares would be zero or infinite in float32."""
    directions = torch.randn(3, 4), torch.randn(2, 4)
    x, c = leaves(*(direction * size for direction, size in zip(directions, sizes, strict=True)))
    wide = leaves(x.detach().double(), c.detach().double())
    nearest_code(x, c, metric="cosine")[1].sum().backward()
    nearest_code(*wide, metric="cosine")[1].sum().backward()
    for narrow, true in zip((x, c), wide, strict=True):
        assert narrow.grad is not None and true.grad is not None
        torch.testing.assert_close(narrow.grad, true.grad.float(), rtol=1e-4, atol=0)


@each_kernel
@each_metric
def test_compiles_to_one_graph(kernel: SearchKernel, metric: Any) -> None:
    weight = some_weight(metric, 6)
    choice = SearchChoice((kernel,))

    def loss(x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        index, distance = nearest_code(x, c, metric=metric, weight=weight, implementation=choice)
        return index, distance.mean()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=True)
    for rows in (8, 11):
        given = drawn("normal", rows, 5, 6, torch.float32)
        results = []
        for run in (loss, compiled):
            x, c = leaves(*given)
            index, mean = run(x, c)
            mean.backward()
            results.append((index, mean.detach(), x.grad, c.grad))
        torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


def test_compiles_with_what_is_installed() -> None:
    compiled = torch.compile(nearest_code, fullgraph=True, backend="aot_eager")
    x, c = drawn("normal", 8, 5, 6, torch.float32)
    assert torch.equal(compiled(x, c)[0], nearest_code(x, c)[0])


@pytest.mark.slow
def test_inductor_compiles_it() -> None:
    x, c = leaves(*drawn("normal", 64, 32, 8, torch.float32))
    index, distance = torch.compile(nearest_code, fullgraph=True)(x, c)
    expected = nearest_code(x, c)
    assert torch.equal(index, expected[0])
    assert torch.equal(distance, expected[1])


@each_metric
@pytest.mark.parametrize("batched", [(0, None), (1, None), (None, 0), (0, 0), (2, 1)])
def test_vmap(metric: Any, batched: tuple[int | None, int | None]) -> None:
    x, c = torch.randn(3, 4, 5), torch.randn(3, 6, 5)
    weight = some_weight(metric, 5)
    given = [y[0] if dim is None else y.movedim(0, dim) for y, dim in zip((x, c), batched, strict=True)]

    def search(x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        return nearest_code(x, c, metric=metric, weight=weight)

    index, distance = torch.vmap(search, in_dims=batched)(*given)
    for at in range(3):
        one = search(x[0 if batched[0] is None else at], c[0 if batched[1] is None else at])
        assert torch.equal(index[at], one[0])
        assert torch.equal(distance[at], one[1])


@pytest.mark.parametrize("in_dims", [(0, None), (None, 1), (1, 0)])
def test_vmap_over_nothing(in_dims: tuple[int | None, int | None]) -> None:
    sizes = ((4, 5), (6, 5))
    given = (torch.randn(4, 5), torch.randn(6, 5))
    x, c = (
        y if dim is None else y.new_zeros(*size[:dim], 0, *size[dim:])
        for y, dim, size in zip(given, in_dims, sizes, strict=True)
    )
    index, distance = torch.vmap(nearest_code, in_dims=in_dims)(x, c)
    assert index.shape == distance.shape == (0, 4)
    assert index.dtype == torch.int64 and distance.dtype == torch.float32


def test_vmap_over_the_weight() -> None:
    x, c = drawn("normal", 9, 7, 4, torch.float32)
    weights = torch.rand(3, 4)

    def search(weight: Tensor) -> tuple[Tensor, Tensor]:
        return nearest_code(x, c, metric="weighted", weight=weight)

    index, _ = torch.vmap(search)(weights)
    assert torch.equal(index, torch.stack([search(weight)[0] for weight in weights]))


def test_autocast_does_not_round() -> None:
    x, c = drawn("normal", 30, 20, 8, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        _, distance = nearest_code(x, c)
    assert torch.equal(distance, nearest_code(x, c)[1])
    assert distance.dtype == torch.float32


def seventh(vectors: Tensor, codebook: Tensor, *, metric: str, weight: Tensor | None, exact: bool) -> Any:
    return vectors.new_full((len(vectors),), 7, dtype=torch.int64), vectors.new_zeros(len(vectors))


def own(name: str = "foo.fast", **changes: Any) -> SearchKernel:
    kernel = SearchKernel(
        name=name,
        run=seventh,
        refuses=lambda case: None if case.width == 8 else f"needs width 8, not {case.width}",
        suits=lambda case: case.exact,
    )
    return replace(kernel, **changes)


def test_auto_asks_plugins_first_and_passes_over_those_that_cannot() -> None:
    x, c = drawn("normal", 4, 9, 8, torch.float32)
    absent = own("foo.absent", missing=lambda: "is not built")
    elsewhere = own("foo.cuda", device="cuda")
    auto = search_choice("auto", [absent, elsewhere, own()])
    assert nearest_code(x, c, implementation=auto)[0].tolist() == [7] * 4
    expected, _ = nearest_code(x, c, implementation=search_choice("reference"))
    assert torch.equal(nearest_code(x, c, exact=False, implementation=auto)[0], expected)
    assert nearest_code(x[:, :4], c[:, :4], implementation=auto)[0].tolist() != [7] * 4


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (own(), "foo.fast needs width 8, not 4"),
        (own(missing=lambda: "is not built; run vtp kernels build"), "foo.fast is not built"),
        (own(device="cuda"), "foo.fast needs cuda tensors"),
    ],
)
def test_a_named_implementation_is_never_replaced(kernel: SearchKernel, message: str) -> None:
    x = torch.randn(2, 4)
    with pytest.raises(UsageError, match=message) as caught:
        nearest_code(x, x, implementation=search_choice("foo.fast", [kernel]))
    assert "\n" not in str(caught.value)


def test_unknown_implementations_are_named() -> None:
    with pytest.raises(
        UsageError, match=r'nearest_code = "faiss": unknown; known: auto, foo\.fast, reference'
    ):
        search_choice("faiss", [own()])


def test_kernels_of_one_name_stay_apart() -> None:
    first, second = search_choice("foo.fast", [own()]), search_choice("foo.fast", [own(device="cpu")])
    assert first.key != second.key
    assert SearchChoice.from_key(first.key) == first
    assert SearchChoice.from_key(second.key) == second
    assert SearchChoice((*first.kernels, REFERENCE)).key.startswith("foo.fast,reference")


ROWS, CODES = torch.randn(3, 4), torch.randn(5, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vectors": torch.zeros(3, 5)}, r"vectors are \(3, 5\).*codebook is \(5, 4\)"),
        ({"vectors": torch.zeros(())}, r"vectors must be \(\.\.\., D\).*vectors are \(\)"),
        (
            {"vectors": torch.zeros(3, 4, dtype=torch.int64)},
            r"vectors must be floating.*\(3, 4\) int64.*\(5, 4\)",
        ),
        ({"vectors": ROWS.double()}, r"dtype or device.*\(3, 4\) float64.*\(5, 4\) float32"),
        ({"vectors": ROWS.to("meta")}, r"dtype or device.*on meta.*on cpu"),
        ({"vectors": ROWS.cfloat(), "codebook": CODES.cfloat()}, "vectors must be floating point.*complex64"),
        ({"codebook": torch.zeros(0, 4)}, r"codebook must have from 1 .* codes.*\(3, 4\).*\(0, 4\)"),
        ({"codebook": torch.zeros(4)}, r"codebook \(K, D\).*codebook is \(4,\)"),
        ({"codebook": torch.zeros(2, 3, 4)}, r"codebook \(K, D\).*codebook is \(2, 3, 4\)"),
        ({"vectors": ROWS[:, :0], "codebook": CODES[:, :0]}, r"width.*from 1 to 4096.*\(3, 0\).*\(5, 0\)"),
        ({"vectors": torch.zeros(1, 5000), "codebook": torch.zeros(1, 5000)}, r"from 1 to 4096.*\(1, 5000\)"),
        ({"codebook": torch.zeros(1, 4).expand(2**20 + 1, 4)}, r"codes; .*\(1048577, 4\)"),
        ({"metric": "hamming"}, 'metric "hamming" is unknown; known: l2, cosine, weighted'),
        ({"metric": "weighted"}, 'metric "weighted" needs a weight'),
        ({"weight": torch.ones(4)}, 'metric "l2" takes no weight'),
        ({"metric": "cosine", "weight": torch.ones(4)}, 'metric "cosine" takes no weight'),
        ({"metric": "weighted", "weight": torch.ones(3)}, r"weight must be .*\(4,\).*got \(3,\).*\(3, 4\)"),
        ({"metric": "weighted", "weight": torch.ones(1, 4)}, r"got \(1, 4\)"),
        ({"metric": "weighted", "weight": torch.ones(4, dtype=torch.int32)}, "got .* int32"),
        ({"metric": "weighted", "weight": torch.ones(4, device="meta")}, "got .* on meta"),
        (
            {"metric": "weighted", "weight": torch.tensor([1.0, -1, 1, 1])},
            "weight has entries that are negative",
        ),
        ({"metric": "weighted", "weight": torch.tensor([1.0, torch.nan, 1, 1])}, "weight has entries .* NaN"),
        ({"metric": "weighted", "weight": torch.tensor([1.0, torch.inf, 1, 1])}, "largest inf"),
    ],
)
def test_bad_arguments_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        nearest_code(**{"vectors": ROWS, "codebook": CODES, **changes})
    assert "\n" not in str(caught.value)


def test_the_reference_says_what_it_cannot_do() -> None:
    case = SearchCase(device="mps", dtype=torch.float32, rows=1, codes=1, width=1, metric="l2", exact=True)
    assert REFERENCE.obstacle(case) == "needs float64, which mps does not support"
