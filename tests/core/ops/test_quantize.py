"""Gradients through a quantiser: against their matrices in float64, and another library's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from vector_quantize_pytorch.vector_quantize_pytorch import rotate_to

from tests.agreement import Agreement
from vtp_core.ops import code_statistics, nearest_code, rotation_trick, straight_through

Through = Callable[[Tensor, Tensor], Tensor]
both = pytest.mark.parametrize("through", [straight_through, rotation_trick])


def gradient(through: Through, vectors: Tensor, codes: Tensor, upstream: Tensor) -> Tensor:
    vectors = vectors.clone().requires_grad_()
    [found] = torch.autograd.grad(through(vectors, codes), vectors, upstream)
    return found


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_value_is_the_codes_exactly(through: Through, dtype: torch.dtype) -> None:
    vectors, codes = (1e4 * torch.randn(5, 6)).to(dtype), torch.randn(5, 6).to(dtype)
    assert torch.equal(through(vectors, codes), codes)


@both
def test_no_gradient_reaches_the_codes(through: Through) -> None:
    vectors, codes = torch.randn(2, 3, 4, requires_grad=True), torch.randn(2, 3, 4, requires_grad=True)
    through(vectors, codes).square().sum().backward()
    assert vectors.grad is not None
    assert codes.grad is None


def test_straight_through_is_the_identity() -> None:
    upstream = torch.randn(4, 3)
    assert torch.equal(gradient(straight_through, torch.randn(4, 3), torch.randn(4, 3), upstream), upstream)


@given(width=st.integers(2, 12), seed=st.integers(0, 2**16))
def test_rotation_is_the_rotation_that_takes_the_vector_to_its_code(width: int, seed: int) -> None:
    torch.manual_seed(seed)
    vector, code, upstream = torch.randn(3, width, dtype=torch.float64).unbind()
    u, v = vector / vector.norm(), code / code.norm()
    # Rotation in the plane of u and v, built from an orthonormal basis of that plane.
    w = v - (u @ v) * u
    w = w / w.norm()
    cos, sin = u @ v, (v @ w)
    basis = torch.stack((u, w))
    turn = torch.stack((torch.stack((cos, -sin)), torch.stack((sin, cos))))
    rotation = torch.eye(width, dtype=torch.float64) + basis.T @ (turn - torch.eye(2)) @ basis
    matrix = rotation * code.norm() / vector.norm()
    torch.testing.assert_close(matrix @ vector, code)
    found = gradient(rotation_trick, vector, code, upstream)
    torch.testing.assert_close(found, matrix.T @ upstream, rtol=1e-8, atol=1e-10)


@pytest.mark.agrees("gradient of the rotation trick", "vector-quantize-pytorch", 1e-5)
def test_rotation_equals_another_library(agreement: Agreement) -> None:
    vectors, codes, upstream = torch.randn(3, 40, 8).unbind()
    expected = gradient(rotate_to, vectors, codes, upstream)
    agreement(gradient(rotation_trick, vectors, codes, upstream), expected)


def test_rotation_keeps_the_gradients_angle() -> None:
    vectors, codes, upstream = torch.randn(3, 20, 6, dtype=torch.float64).unbind()
    found = gradient(rotation_trick, vectors, codes, upstream)
    before = torch.cosine_similarity(upstream, codes, dim=-1)
    torch.testing.assert_close(torch.cosine_similarity(found, vectors, dim=-1), before)
    torch.testing.assert_close(
        found.norm(dim=-1) * vectors.norm(dim=-1), upstream.norm(dim=-1) * codes.norm(dim=-1)
    )


@pytest.mark.parametrize(("vector", "code"), [([0.0, 0.0], [1.0, 2.0]), ([1.0, 2.0], [0.0, 0.0])])
def test_rotation_of_nothing_is_the_identity(vector: list[float], code: list[float]) -> None:
    upstream = torch.randn(2)
    found = gradient(rotation_trick, torch.tensor(vector), torch.tensor(code), upstream)
    torch.testing.assert_close(found, upstream)


def test_rotation_to_the_opposite_keeps_the_length() -> None:
    vector, upstream = torch.randn(5, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    found = gradient(rotation_trick, vector, -vector, upstream)
    torch.testing.assert_close(found.norm(), upstream.norm())
    torch.testing.assert_close(found @ vector, -upstream @ vector)


@both
def test_a_quantiser_compiles_to_one_graph(through: Through) -> None:
    def loss(vectors: Tensor, codebook: Tensor) -> Tensor:
        index, _ = nearest_code(vectors, codebook)
        return through(vectors, codebook[index]).square().sum()

    codebook, given = torch.randn(6, 4), torch.randn(9, 4)
    found = []
    for run in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        vectors = given.clone().requires_grad_()
        run(vectors, codebook).backward()
        found.append(vectors.grad)
    torch.testing.assert_close(found[0], found[1])


def test_one_graph_serves_every_number_of_rows() -> None:
    def loss(vectors: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
        index, distance = nearest_code(vectors, codebook)
        _, sums = code_statistics(vectors.detach(), index, 6)
        return rotation_trick(vectors, codebook[index]).sum() + distance.sum(), sums

    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(loss, fullgraph=True, backend=counter, dynamic=True)
    codebook = torch.randn(6, 4)
    for rows in (8, 9, 10, 50):
        compiled(torch.randn(rows, 4, requires_grad=True), codebook)
    assert counter.frame_count == 1


@both
def test_bad_arguments_are_named(through: Through) -> None:
    with pytest.raises(ValueError, match=r"vectors are \(2, 3\).*codes are \(3, 3\)"):
        through(torch.zeros(2, 3), torch.zeros(3, 3))
    with pytest.raises(ValueError, match=r"float32.*float64"):
        through(torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.float64))
