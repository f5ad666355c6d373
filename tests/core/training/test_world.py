"""Collectives of one process and of simulated ranks; seeds."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from vtp_core.features import Tally
from vtp_core.training.forward.seeds import derive_seed, generator, seeded
from vtp_core.training.groups import build_groups, group_needs
from vtp_core.training.ranks.tallies import SAMPLE_ROWS, reduce_tally
from vtp_core.training.ranks.world import World
from vtp_core.view import ViewNeed


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(0, 3)), min_size=1, max_size=9))
@example([(0.0, 2.2250738585e-313)])
@example([(3.3, 5e-324), (1.0, 5e-324)])
def test_the_weighted_mean_is_the_exact_one_and_zero_weights_give_zero(pairs):
    values, weights = (torch.tensor(column, dtype=torch.float64) for column in zip(*pairs, strict=True))
    values.requires_grad_()
    mean = World().mean(values, weights)
    mean.backward()
    total = sum((Fraction(weight) for _, weight in pairs), Fraction(0))
    shares = [Fraction(weight) / total if total else Fraction(0) for _, weight in pairs]
    expected = sum(Fraction(value) * share for (value, _), share in zip(pairs, shares, strict=True))
    assert mean.item() == pytest.approx(float(expected), abs=1e-12)
    assert values.grad.tolist() == pytest.approx([float(share) for share in shares], abs=1e-12)


def test_an_empty_mean_is_zero_with_a_zero_gradient():
    values = torch.randn(0, requires_grad=True)
    mean = World().mean(values)
    mean.backward()
    assert mean.item() == 0
    assert values.grad.shape == (0,)


def test_seeds_are_pinned_so_that_old_runs_resume():
    assert derive_seed(0, "a") == 8898938347678966206
    assert derive_seed(0, 1, "student", "encode", "image", False, 0, 0) == 14581330364149227
    assert derive_seed(0, 1) != derive_seed(1, 0) != derive_seed(0, "1")


def test_a_seeded_body_leaves_the_global_generator_as_it_was():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    with seeded("x"):
        inside = torch.rand(2)
    torch.testing.assert_close(torch.rand(2), expected, rtol=0, atol=0)
    torch.testing.assert_close(inside, torch.rand(2, generator=generator("x")), rtol=0, atol=0)


def test_tallies_add_and_keep_the_first_rows():
    parts = [Tally(sums={"n": torch.ones(2) * i}, rows={"x": torch.arange(40.0) + 40 * i}) for i in range(3)]
    tally = reduce_tally(parts, World())
    torch.testing.assert_close(tally.sums["n"], torch.full((2,), 3.0))
    torch.testing.assert_close(tally.rows["x"], torch.arange(float(SAMPLE_ROWS)))


def test_groups_are_the_connected_components_and_adversaries_come_last():
    need = ViewNeed()
    needs = {
        "gan": {"rec": need},
        "clip": {"image": need},
        "dino": {"ssl": ViewNeed(crops=("global", "local"), rows=8)},
        "l1": {"rec": need},
        "mim": {"ssl": ViewNeed(masked=True, rows=4, layers=(2,))},
    }
    groups = build_groups(needs, last=["gan"])
    assert [group.objectives for group in groups] == [("l1", "gan"), ("clip",), ("dino", "mim")]
    merged = group_needs(needs, ["dino", "mim"])["ssl"]
    assert merged == ViewNeed(crops=("global", "local"), masked=True, rows=8, layers=(2,))
