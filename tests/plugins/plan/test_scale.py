"""Scaling recovers costs of the form that is assumed, whatever the coefficients."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtp_core.training.forward.observer import Key
from vtp_plugins.plan.meter import Cost, Meter
from vtp_plugins.plan.scale import ROWS, Costs

NETWORK: Key = ("student", "encode", "image", False)
LOSS: Key = ("objective", "clip")
amounts = st.integers(0, 10**9).map(float)


def meter(**costs: Cost) -> Meter:
    made = Meter()
    made.costs = {NETWORK: costs["network"], LOSS: costs["loss"]}
    return made


@given(amounts, amounts, amounts, amounts, amounts, amounts, st.integers(1, 40), st.integers(1, 5000))
def test_rows_and_depth(
    constant: float,
    linear: float,
    blocks: float,
    block: float,
    own: float,
    pair: float,
    depth: int,
    rows: int,
) -> None:
    def step(rows: int, depth: int) -> Meter:
        network = constant + linear * rows + depth * (blocks + block * rows)
        return meter(network=Cost(forward=network), loss=Cost(forward=own * rows + pair * rows * rows))

    costs = Costs(
        {n: step(n, 1) for n in ROWS}, {"encoder": {n: step(n, 2) for n in (2, 4)}}, {"encoder": depth}
    )
    assert costs.at(NETWORK, rows, rows).forward == pytest.approx(step(rows, depth).costs[NETWORK].forward)
    expected = own * rows + pair * rows * 8 * rows  # each of 8 ranks holds its rows against all
    assert costs.at(LOSS, rows, 8 * rows).forward == pytest.approx(expected, rel=1e-6, abs=1)


def test_a_checkpointed_block_keeps_its_input_and_runs_again() -> None:
    def step(rows: int, depth: int) -> Meter:
        each = rows * depth
        cost = Cost(forward=10 * each, backward=20 * each, saved=100 * each + 7, blocks=3 * each)
        return meter(network=cost, loss=Cost())

    costs = Costs({n: step(n, 1) for n in ROWS}, {"encoder": {n: step(n, 2) for n in (2, 4)}}, {"encoder": 6})
    plain = costs.at(NETWORK, 5, 5)
    thrifty = costs.at(NETWORK, 5, 5, checkpointed=True)
    assert plain.saved == pytest.approx(100 * 30 + 7)
    assert thrifty.saved == pytest.approx(5 * 6 * 3 + 7)
    assert thrifty.rerun == pytest.approx(5 * (100 - 3))
    assert thrifty.backward == pytest.approx(plain.backward + plain.forward)
