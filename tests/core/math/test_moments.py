"""Merged moments against numpy in float64."""

from __future__ import annotations

from itertools import pairwise

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vtp_core.features import Tally
from vtp_core.math.moments import Moments, merge
from vtp_core.testing.ranks import run_ranks
from vtp_core.training.ranks.tallies import reduce_tally
from vtp_core.training.ranks.world import World


def expect(found: Moments, vectors: torch.Tensor, tolerance: float = 1e-12) -> None:
    wide = vectors.double().numpy()
    assert found.count.item() == len(wide)
    numpy.testing.assert_allclose(found.mean.numpy(), wide.mean(0), rtol=tolerance)
    covariance = numpy.cov(wide.T, ddof=1)
    scale = numpy.abs(covariance).max()
    diagonal = found.scatter.ndim == 1
    expected = numpy.diag(covariance) if diagonal else covariance
    numpy.testing.assert_allclose(found.covariance.numpy(), expected, atol=tolerance * scale, rtol=0)


@given(
    cuts=st.lists(st.integers(0, 40), max_size=4),
    offset=st.sampled_from([0.0, 1e3, -300.0]),
    seed=st.integers(0, 99),
)
def test_parts_merge_to_the_whole(cuts: list[int], offset: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(40, 5, generator=generator, dtype=torch.float64) + offset
    bounds = [0, *sorted(cuts), 40]
    parts = [vectors[start:stop] for start, stop in pairwise(bounds)]
    for diagonal in (False, True):
        expect(merge([Moments.of(part, diagonal=diagonal) for part in parts]), vectors)


def test_many_vectors_are_taken_in_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vtp_core.math.moments.TILE", 300)
    vectors = torch.randn(1007, 3) + 1000
    expect(Moments.of(vectors.view(1, 1007, 3)), vectors, 1e-9)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_vectors_that_are_not_finite_are_left_out(bad: float) -> None:
    vectors = torch.randn(20, 4)
    damaged = vectors.clone()
    damaged[3, 1] = damaged[7, 0] = bad
    kept = [i for i in range(20) if i not in (3, 7)]
    expect(Moments.of(damaged), vectors[kept])


def test_no_vector_and_one_vector() -> None:
    none = Moments.of(torch.randn(0, 3))
    assert none.count.item() == 0
    assert torch.equal(none.covariance, torch.zeros(3, 3, dtype=torch.float64))
    one = torch.tensor([[1.0, 2.0, 3.0]])
    assert torch.equal(merge([none, Moments.of(one)]).mean, one[0].double())


@pytest.mark.parametrize("size", [1, 2, 3])
def test_ranks_and_a_sample_at_any_world_size(size: int) -> None:
    """Three ranks once kept 63 of the first 64 rows."""
    vectors = torch.randn(90, 4, dtype=torch.float64) + 1e3

    def body(world: World) -> Tally:
        mine = vectors[world.rank :: world.size]
        parts = [
            Tally(rows={"x": part}, moments={"x": Moments.of(part)}, sums={"n": torch.ones(())})
            for part in mine.split(7)
        ]
        return reduce_tally(parts, world, 64)

    for tally in run_ranks(size, body):
        expect(tally.moments["x"], vectors)
        assert torch.equal(tally.rows["x"], vectors[:64])
