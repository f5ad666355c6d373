"""The streamed cross-entropy against plain autograd and numpy, whatever the blocks."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vtp_plugins.dino.loss import Blocks, streamed_cross_entropy
from vtp_plugins.dino.scores import Sums, blocked, times, within

Inputs = dict[str, Any]


def _inputs(
    samples: int, own: int, other: int, prototypes: int, dtype: torch.dtype = torch.float64
) -> Inputs:
    rng = torch.Generator().manual_seed(samples + 10 * own + 100 * other + 1000 * prototypes)

    def unit(*shape: int) -> Tensor:
        return F.normalize(torch.randn(*shape, 5, generator=rng, dtype=torch.float64), dim=-1).to(dtype)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=rng, dtype=torch.float64).to(dtype)

    return {
        "student": unit(samples, own),
        "prototypes": unit(prototypes) * (0.5 + uniform(prototypes, 1)),
        "teacher": unit(samples, other),
        "teacher_prototypes": unit(prototypes),
        "offset": uniform(prototypes),
        "mixture": uniform(own, other).round(decimals=1),
        "weights": uniform(samples, own),
        "temperatures": (0.1, 0.04),
    }


def _plain(inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    """The same with all scores at once, by autograd."""
    warm, cold = inputs["temperatures"]
    logits = inputs["student"] @ inputs["prototypes"].T / warm
    target = (inputs["teacher"] @ inputs["teacher_prototypes"].T / cold + inputs["offset"]).softmax(-1)
    mixed = torch.einsum("sg,bgk->bsk", inputs["mixture"], target)
    losses = -(mixed * logits.log_softmax(-1)).sum(-1)
    return (losses * inputs["weights"]).sum(), losses, torch.special.entr(target).sum(-1)


def _gradients(total: Tensor, inputs: Inputs) -> tuple[Tensor, ...]:
    return torch.autograd.grad(total, (inputs["student"], inputs["prototypes"]))


@given(
    samples=st.integers(1, 7),
    own=st.integers(1, 4),
    other=st.integers(1, 3),
    prototypes=st.integers(1, 12),
    rows=st.integers(1, 9),
    columns=st.integers(1, 14),
)
def test_any_blocks_give_what_plain_autograd_gives(
    samples: int, own: int, other: int, prototypes: int, rows: int, columns: int
) -> None:
    inputs = _inputs(samples, own, other, prototypes)
    inputs["student"].requires_grad_()
    inputs["prototypes"].requires_grad_()
    found = streamed_cross_entropy(**inputs, dtype=torch.float64, blocks=Blocks(rows=rows, columns=columns))
    expected = _plain(inputs)
    for mine, plain in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-10, atol=1e-12)
    for mine, plain in zip(
        _gradients(found[0] * 3, inputs), _gradients(expected[0] * 3, inputs), strict=True
    ):
        torch.testing.assert_close(mine, plain, rtol=1e-9, atol=1e-12)


def test_against_numpy_row_by_row() -> None:
    inputs = _inputs(4, 1, 1, 9)
    inputs["mixture"] = torch.ones(1, 1, dtype=torch.float64)
    _, losses, _ = streamed_cross_entropy(**inputs, dtype=torch.float64)
    arrays = {name: value.numpy() for name, value in inputs.items() if isinstance(value, Tensor)}
    for row in range(4):
        mine = arrays["prototypes"] @ arrays["student"][row, 0] / 0.1
        theirs = arrays["teacher_prototypes"] @ arrays["teacher"][row, 0] / 0.04 + arrays["offset"]
        target = numpy.exp(theirs - numpy.logaddexp.reduce(theirs))
        assert losses[row, 0].item() == pytest.approx(numpy.logaddexp.reduce(mine) - target @ mine, rel=1e-12)


def test_gradcheck() -> None:
    inputs = _inputs(2, 2, 2, 4)

    def total(student: Tensor, prototypes: Tensor) -> Tensor:
        changed = {**inputs, "student": student, "prototypes": prototypes}
        return streamed_cross_entropy(**changed, dtype=torch.float64, blocks=Blocks(rows=2, columns=3))[0]

    arguments = (inputs["student"].requires_grad_(), inputs["prototypes"].requires_grad_())
    assert torch.autograd.gradcheck(total, arguments)


@pytest.mark.parametrize("blocks", [Blocks(rows=64, columns=3000), Blocks(rows=32, columns=512)])
def test_float32_and_bfloat16_are_near_float64(blocks: Blocks) -> None:
    exact = _inputs(40, 3, 2, 3000)
    exact["student"].requires_grad_(), exact["prototypes"].requires_grad_()
    wanted = _gradients(_plain(exact)[0], exact)
    inputs = {k: v.detach().float() if isinstance(v, Tensor) else v for k, v in exact.items()}
    inputs["student"].requires_grad_(), inputs["prototypes"].requires_grad_()
    for dtype, tolerance in ((torch.float32, 2e-6), (torch.bfloat16, 3e-2)):
        total, losses, entropy = streamed_cross_entropy(**inputs, dtype=dtype, blocks=blocks)
        assert total.dtype == losses.dtype == entropy.dtype == torch.float32
        for mine, gradient in zip(_gradients(total, inputs), wanted, strict=True):
            assert (mine - gradient).norm() <= tolerance * gradient.norm()


class _Largest(TorchDispatchMode):
    """Notes the elements of the largest tensor that any operator returns."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self.elements = max(self.elements, *sizes, 0)
        return result


def test_no_more_scores_exist_than_a_block_holds() -> None:
    inputs = _inputs(600, 1, 1, 900, torch.float32)
    inputs["mixture"] = torch.ones(1, 1)
    inputs["student"].requires_grad_(), inputs["prototypes"].requires_grad_()
    for blocks, most in ((Blocks(rows=20, columns=900), 20 * 900), (Blocks(rows=50, columns=64), 900 * 5)):
        with _Largest() as largest:
            total, *_ = streamed_cross_entropy(**inputs, dtype=torch.float32, blocks=blocks)
            total.backward()
        assert largest.elements == most  # not (600, 900)
    with _Largest() as largest:
        _plain(inputs)[0].backward()
    assert largest.elements == 600 * 900


def test_chosen_blocks_do_not_grow_with_the_prototypes() -> None:
    assert Blocks.choose(65536, 5000, 1 << 19) == Blocks(rows=1024, columns=512)
    for rows in (1, 64, 700, 10**6):
        tiles = Blocks.choose(65536, rows, 1 << 19)
        assert tiles.rows * tiles.columns <= 1 << 19
    assert Blocks.choose(1024, 300, 1 << 19).columns == 1024
    assert [(part.start, part.stop) for part in blocked(5, 2)] == [(0, 2), (2, 4), (4, 5)]


@pytest.mark.parametrize("columns", [4, 50])
@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_a_known_normalizer_changes_nothing(columns: int, scale: float) -> None:
    """In the range of float32, and far beyond."""
    inputs = _inputs(6, 2, 3, 9)
    inputs["teacher_prototypes"] = inputs["teacher_prototypes"] * scale
    inputs["student"].requires_grad_(), inputs["prototypes"].requires_grad_()
    normalizer = (
        inputs["teacher"] @ inputs["teacher_prototypes"].T / inputs["temperatures"][1] + inputs["offset"]
    ).logsumexp(-1)
    blocks = Blocks(rows=4, columns=columns)
    known = streamed_cross_entropy(**inputs, dtype=torch.float64, normalizer=normalizer, blocks=blocks)
    for mine, plain in zip(known, _plain(inputs), strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-9, atol=1e-9)
    for mine, plain in zip(_gradients(known[0], inputs), _gradients(_plain(inputs)[0], inputs), strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("far", ["student", "teacher"])
@pytest.mark.parametrize("columns", [3, 100])
def test_scores_beyond_exp_in_float32_give_what_float64_gives(far: str, columns: int) -> None:
    """One side's scores are up to 500 nats: their exponentials have to be shifted."""
    exact = _inputs(8, 1, 1, 7)
    exact["mixture"] = torch.ones(1, 1, dtype=torch.float64)
    name = {"student": "prototypes", "teacher": "teacher_prototypes"}[far]
    exact[name] = (exact[name] * 20).float().double()
    inputs = {k: v.float() if isinstance(v, Tensor) else v for k, v in exact.items()}
    inputs["student"].requires_grad_(), exact["student"].requires_grad_()
    total, losses, entropy = streamed_cross_entropy(
        **inputs, dtype=torch.float32, blocks=Blocks(rows=5, columns=columns)
    )
    expected = _plain(exact)
    for mine, plain in zip((total, losses, entropy), expected, strict=True):
        torch.testing.assert_close(mine, plain.float(), rtol=1e-3, atol=1e-3)
    (mine,) = torch.autograd.grad(total, inputs["student"])
    (plain,) = torch.autograd.grad(expected[0], exact["student"])
    assert (mine - plain).norm() <= 1e-3 * plain.norm()


def test_sums_say_when_they_are_no_use() -> None:
    tile, spare = torch.tensor([[1.0, 3.0], [0.0, 0.0]]), torch.empty(2, 2)
    for shifted in (False, True):
        sums = Sums.empty(2, tile, shifted=shifted)
        sums.add(tile, spare)
        sums.add(tile, spare)
        assert sums.usable()
        torch.testing.assert_close(
            sums.relative(tile.clone()).exp2() / sums.total, tile.exp2() / torch.tensor([[20.0], [4]])
        )
    for shift, good in ((-200.0, False), (200.0, False), (30.0, True)):
        sums = Sums.empty(2, tile, shifted=False)
        sums.add(tile + shift, spare)
        assert sums.usable() == good
        sums = Sums.empty(2, tile, shifted=True)
        sums.add(tile + shift, spare)
        assert sums.usable() and sums.total.isfinite().all()
    assert within(torch.empty(0)) and not within(torch.tensor([1.0, torch.nan]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(3, 5, 7), (1, 1, 1), (0, 4, 2), (4, 0, 2), (64, 300, 32)])
def test_products_of_any_strides(dtype: torch.dtype, shape: tuple[int, int, int]) -> None:
    rng = torch.Generator().manual_seed(0)
    n, m, width = shape
    a, b = (torch.randn(count, width, generator=rng, dtype=torch.float64) for count in (n, m))
    for left in (a.to(dtype), a.to(dtype).T.contiguous().T):
        for right in (b.to(dtype), b.to(dtype).T.contiguous().T):
            found = times(left, right)
            assert found.dtype == dtype and found.shape == (n, m)
            torch.testing.assert_close(
                found.double(),
                left.double() @ right.double().T,
                rtol=1e-2 if dtype == torch.bfloat16 else 1e-5,
                atol=1e-4,
            )


def test_no_rows_and_extreme_scores() -> None:
    inputs = _inputs(1, 1, 1, 6)
    empty = {**inputs, "student": inputs["student"][:0], "teacher": inputs["teacher"][:0]}
    empty["weights"] = inputs["weights"][:0]
    empty["prototypes"].requires_grad_()
    total, losses, entropy = streamed_cross_entropy(**empty, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(total, empty["prototypes"])
    assert total == 0 and losses.shape == entropy.shape == (0, 1) and gradient.abs().max() == 0

    for scale in (0.0, 1e4):  # all scores equal, or thousands apart, in float32
        extreme = {k: v.detach().float() if isinstance(v, Tensor) else v for k, v in inputs.items()}
        extreme["prototypes"] = (extreme["prototypes"] * scale).requires_grad_()
        extreme["teacher_prototypes"] = extreme["teacher_prototypes"] * scale
        extreme["student"].requires_grad_()
        for blocks in (Blocks(rows=1, columns=6), Blocks(rows=1, columns=4)):
            total, _, entropy = streamed_cross_entropy(**extreme, dtype=torch.float32, blocks=blocks)
            assert torch.isfinite(total) and torch.isfinite(entropy).all()
            assert all(torch.isfinite(gradient).all() for gradient in _gradients(total, extreme))
