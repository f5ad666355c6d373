"""The contrastive loss against float64 formulas and open_clip."""

from __future__ import annotations

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from tests.agreement import Agreement
from vtp_plugins.clip.loss import contrast, equal_rows


def _unit(rows: int, width: int, seed: int) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, width, generator=rng, dtype=torch.float64), dim=1)


@given(rows=st.integers(1, 9), width=st.integers(1, 6), scale=st.floats(1, 100), texts=st.integers(1, 4))
def test_against_plain_numpy(rows: int, width: int, scale: float, texts: int) -> None:
    queries, keys = _unit(rows, width, 1), _unit(rows, width, 2)
    groups = torch.arange(rows) % texts
    losses, _ = contrast(queries, keys, torch.tensor([scale]).double(), torch.arange(rows), groups)
    scores = scale * queries.numpy() @ keys.numpy().T
    for row in range(rows):
        kept = [column for column in range(rows) if column == row or column % texts != row % texts]
        shifted = scores[row, kept] - scores[row, row]
        expected = numpy.logaddexp.reduce(shifted)
        assert losses[row].item() == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.agrees("loss of CLIP and its gradients", "open_clip_torch", 1e-10, relative=True)
def test_against_open_clip(agreement: Agreement) -> None:
    from open_clip.loss import ClipLoss

    images, texts = _unit(16, 8, 1).requires_grad_(), _unit(16, 8, 2).requires_grad_()
    scale = torch.tensor([14.0], dtype=torch.float64, requires_grad=True)
    own = torch.arange(16)
    mine = (contrast(images, texts, scale, own)[0].mean() + contrast(texts, images, scale, own)[0].mean()) / 2
    theirs = ClipLoss()(images, texts, scale)
    agreement(mine, theirs)
    for ours, expected in zip(
        torch.autograd.grad(mine, (images, texts, scale)),
        torch.autograd.grad(theirs, (images, texts, scale)),
        strict=True,
    ):
        agreement(ours, expected)


def test_rows_of_one_rank_are_rows_of_the_whole() -> None:
    queries, keys = _unit(6, 4, 1), _unit(6, 4, 2)
    scale, groups = torch.tensor([9.0]).double(), torch.tensor([0, 1, 0, 2, 1, 0])
    whole, found = contrast(queries, keys, scale, torch.arange(6), groups)
    part, part_found = contrast(queries[1::2], keys, scale, torch.arange(6)[1::2], groups)
    torch.testing.assert_close(part, whole[1::2])
    assert torch.equal(part_found, found[1::2])


def test_gradcheck_with_masked_pairs() -> None:
    groups, own = torch.tensor([0, 1, 0, 2]), torch.arange(4)

    def total(queries: Tensor, keys: Tensor, scale: Tensor) -> Tensor:
        return contrast(queries, keys, scale, own, groups)[0].sum()

    arguments = (_unit(4, 3, 1), _unit(4, 3, 2), torch.tensor([3.0]).double())
    assert torch.autograd.gradcheck(total, tuple(x.clone().requires_grad_() for x in arguments))


def test_all_captions_equal_gives_no_loss_and_no_gradient() -> None:
    queries = _unit(5, 3, 1).requires_grad_()
    losses, found = contrast(queries, _unit(5, 3, 2), torch.ones(1).double(), torch.arange(5), torch.zeros(5))
    losses.sum().backward()
    assert losses.abs().max() == 0 and found.all()
    assert queries.grad is not None and queries.grad.abs().max() == 0


def test_the_scores_stay_float32_under_autocast() -> None:
    queries, keys = _unit(8, 64, 1).float(), _unit(8, 64, 2).float()
    own, scale = torch.arange(8), torch.tensor([100.0])
    plain, _ = contrast(queries, keys, scale, own)
    with torch.autocast("cpu", torch.bfloat16):
        cast, _ = contrast(queries, keys, scale, own)
    assert cast.dtype == torch.float32 and torch.equal(plain, cast)


@given(st.lists(st.lists(st.integers(0, 2), min_size=3, max_size=3), min_size=1, max_size=12))
def test_equal_rows_get_equal_numbers(rows: list[list[int]]) -> None:
    numbers = equal_rows(torch.tensor(rows)).tolist()
    for i, first in enumerate(rows):
        for j, other in enumerate(rows):
            assert (numbers[i] == numbers[j]) == (first == other)


@pytest.mark.parametrize("masked", [False, True])
def test_blocks_of_queries_change_nothing(monkeypatch: pytest.MonkeyPatch, masked: bool) -> None:
    """Neither losses nor any gradient, with a last block that is smaller."""
    groups = torch.tensor([0, 1, 0, 2, 1, 3, 4]) if masked else None
    results = []
    for most in (1 << 24, 2 * 7, 3 * 7):
        monkeypatch.setattr("vtp_plugins.clip.loss.BLOCK_ELEMENTS", most)
        queries, keys = _unit(7, 5, 1).requires_grad_(), _unit(7, 5, 2).requires_grad_()
        scale = torch.tensor([9.0]).double().requires_grad_()
        losses, found = contrast(queries, keys, scale, torch.arange(7), groups)
        slope = torch.arange(1.0, 8.0).double()
        gradients = torch.autograd.grad((losses * slope).sum(), (queries, keys, scale))
        results.append((losses, found, *gradients))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=1e-12, atol=1e-14)
