"""Schedules against plain formulas and, where it has the same, torch's own."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from vtp_core.schedule import (
    Constant,
    Cosine,
    Fraction,
    Linear,
    NotNegative,
    Scheduled,
    StepSchedule,
    WarmupStableDecay,
    value_at,
)

finite = st.floats(-10, 10)


def test_a_number_is_itself_at_every_step() -> None:
    assert [value_at(0.5, index, 3) for index in range(3)] == [0.5, 0.5, 0.5]
    assert value_at(2, 0, 1) == 2.0


def test_cosine_is_that_of_torch() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=3.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=50, eta_min=0.5)
    ours = Cosine(start=3.0, end=0.5)
    for index in range(50):
        assert ours.at(index, 50) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        theirs.step()


@given(finite, finite, st.integers(1, 30), st.integers(1, 40))
def test_linear_is_a_line_and_then_stays(start: float, end: float, steps: int, total: int) -> None:
    schedule = Linear(start=start, end=end, steps=steps)
    for index in range(total):
        expected = start + (end - start) * index / steps if index < steps else end
        assert schedule.at(index, total) == pytest.approx(expected, abs=1e-12)


@given(finite, st.integers(0, 10), finite, st.integers(1, 20))
def test_a_warm_up_rises_in_a_line_to_the_first_value(
    first: float, warmup: int, low: float, total: int
) -> None:
    for schedule in (
        Constant(value=first, warmup=warmup, warmup_from=low),
        Linear(start=first, end=0.0, warmup=warmup, warmup_from=low),
        Cosine(start=first, warmup=warmup, warmup_from=low),
    ):
        for index in range(warmup):
            expected = low + (first - low) * (index + 1) / warmup
            assert schedule.at(index, total + warmup) == pytest.approx(expected, abs=1e-12)
        assert schedule.at(warmup, total + warmup) == pytest.approx(first, abs=1e-12)


def test_warm_up_counts_into_the_steps_of_the_schedule() -> None:
    schedule = Linear(start=1.0, end=0.0, warmup=10)
    assert [schedule.at(index, 110) for index in (10, 60, 110)] == [1.0, 0.5, 0.0]
    assert schedule.final(110) == 0.0


def test_steps_jump_at_their_boundaries() -> None:
    schedule = StepSchedule(values=(1.0, 0.1, 0.01), at_steps=(3, 5))
    assert [schedule.at(index, 7) for index in range(7)] == [1.0, 1.0, 1.0, 0.1, 0.1, 0.01, 0.01]


def test_a_short_run_of_wsd_has_the_values_of_a_long_one_until_its_decay() -> None:
    schedule = WarmupStableDecay(value=2.0, decay=4, end=1.0, warmup=2)
    assert [schedule.at(index, 10) for index in range(10)] == [1.0] + [2.0] * 6 + [1.75, 1.5, 1.25]
    assert [schedule.at(index, 10) for index in range(6)] == [schedule.at(index, 50) for index in range(6)]
    assert schedule.final(10) == 1.0
    assert TypeAdapter(Scheduled).validate_python(schedule.model_dump()) == schedule
    with pytest.raises(ValidationError, match="at least 0"):
        TypeAdapter(NotNegative).validate_python({"kind": "wsd", "value": 1.0, "decay": 3, "end": -1})


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"kind": "step", "values": [1.0, 2.0]}, "2 values need 1 at_steps"),
        ({"kind": "step", "values": [1.0, 2.0, 3.0], "at_steps": [5, 5]}, "at_steps must rise"),
        ({"kind": "linear", "start": 1.0}, "Field required"),
    ],
)
def test_a_table_that_makes_no_schedule(table: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        TypeAdapter(Scheduled).validate_python(table)


def test_a_recipe_value_is_a_number_or_a_schedule() -> None:
    adapter = TypeAdapter(Scheduled)
    assert adapter.validate_python(3) == 3.0
    assert adapter.validate_python({"kind": "cosine", "start": 1.0}) == Cosine(start=1.0)
    assert adapter.validate_python(Constant(value=math.pi)).at(9, 10) == math.pi
    assert adapter.dump_python(Linear(start=0.0, end=1.0))["kind"] == "linear"


@pytest.mark.parametrize(
    "value", [0, 0.5, 1, {"kind": "cosine", "start": 1.0, "warmup": 3}, {"kind": "constant", "value": 0}]
)
def test_values_within_bounds_pass(value: object) -> None:
    assert TypeAdapter(Fraction).validate_python(value) == TypeAdapter(Scheduled).validate_python(value)
    TypeAdapter(NotNegative).validate_python(value)


@pytest.mark.parametrize(
    "value",
    [
        -0.1,
        math.inf,
        math.nan,
        {"kind": "constant", "value": -1},
        {"kind": "linear", "start": 0, "end": -1e-9},
        {"kind": "cosine", "start": math.nan},
        {"kind": "step", "values": [0, 1, -1], "at_steps": [1, 2]},
        {"kind": "constant", "value": 1, "warmup": 2, "warmup_from": -1},
    ],
)
def test_values_out_of_bounds_are_refused(value: object) -> None:
    with pytest.raises(ValidationError, match="must be finite and at least 0, got "):
        TypeAdapter(NotNegative).validate_python(value)
    with pytest.raises(ValidationError, match="must be finite and from 0 to 1, got "):
        TypeAdapter(Fraction).validate_python(value)
    with pytest.raises(ValidationError, match="got 2"):
        TypeAdapter(Fraction).validate_python(2)
