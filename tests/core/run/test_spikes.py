"""Loss spikes give a warning; noise, falling and constant losses do not."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest

from tests.core.run.tiny_run import vtp
from vtp_core.run.spikes import LEAST, SCORE, WINDOW, SpikeWatch


def test_a_spike_gives_a_warning_with_its_score() -> None:
    watch = SpikeWatch()
    values = [1.0 + 0.1 * (-1) ** step for step in range(20)]
    assert not any(watch.see({"clip/contrast": value}) for value in values)
    (line,) = watch.see({"clip/contrast": 4.0})
    deviation = 1.4826 * numpy.median(numpy.abs(numpy.array(values) - 1.0))
    assert f"{(4.0 - 1.0) / deviation:.0f} deviations above its median 1 of 20 steps" in line
    assert line.startswith("loss clip/contrast = 4 ")


def test_each_loss_has_a_window_of_its_own() -> None:
    watch = SpikeWatch()
    for _ in range(LEAST):
        assert watch.see({"a": 1.0, "b": 100.0}) == []
    (line,) = watch.see({"a": 100.0, "b": 100.0})
    assert line.startswith("loss a ")


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_noise_and_falling_losses_are_none(scale: float) -> None:
    draw, watch = numpy.random.default_rng(0), SpikeWatch()
    for step in range(2000):
        falling = scale * (1 + 5 * numpy.exp(-step / 50)) * float(draw.lognormal(0, 0.2))
        assert watch.see({"l1/pixels": falling, "gan/adversarial": scale * float(draw.normal())}) == []


def test_resting_losses_may_stir_and_few_steps_say_nothing() -> None:
    watch = SpikeWatch()
    for value in [1.0] * 30 + [1.05] + [0.0] * WINDOW:
        assert watch.see({"koleo/spread": value}) == []
    early = SpikeWatch()
    assert not any(early.see({"new": value}) for value in [1.0] * (LEAST - 1) + [1e6])


def test_a_loss_that_begins_after_zeros_is_none() -> None:
    """As that of `gan`, whose critic first learns alone and then comes in by a ramp."""
    watch, draw = SpikeWatch(), numpy.random.default_rng(0)
    for step in range(200):
        ramp = min(max(step - 20, 0) / 20, 1)
        assert watch.see({"gan/adversarial": ramp * float(draw.normal(0.3, 0.1))}) == []


def test_a_spike_does_not_hide_the_next() -> None:
    watch = SpikeWatch()
    values = [1.0 + 0.01 * (step % 5) for step in range(40)]
    warned = [bool(watch.see({"x": value})) for value in [*values, 9.0, 1.0, 9.0]]
    assert warned[-3:] == [True, False, True]
    assert SCORE > 1


def test_a_run_prints_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A weight decides nothing: the loss as it is counts."""
    monkeypatch.setattr("vtp_core.run.spikes.LEAST", 2)
    monkeypatch.setattr("vtp_core.run.spikes.SCORE", -1e9)
    result = vtp(tmp_path, "run.steps=3")
    assert result.exit_code == 0, result.output
    lines = [line for line in result.output.splitlines() if "deviations above its median" in line]
    assert any(line.startswith("step 3: loss l1/pixels = ") for line in lines)
