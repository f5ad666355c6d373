"""Signs of an adversarial training gone wrong: when they count, what is said, what a pause does."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from tests.core.training.rank_bodies import Capture
from tests.core.training.toy import batches
from tests.plugins.gan.gan_runs import PATCHES, Training, build
from vtp_core.training.forward.options import ForwardOptions
from vtp_core.training.joint import JointStep, StepResult
from vtp_core.training.networks import Networks
from vtp_core.training.ranks.world import World
from vtp_plugins.gan.alarm import SIGNS, advice, counted, critic_signs
from vtp_plugins.gan.config import GanConfig
from vtp_plugins.gan.objective import Gan

CONFIG = GanConfig(use="gan", view="rec", alarm_steps=3)
ALARM = "gan.critic/alarm"


def _gan(networks: Networks) -> Gan:
    gan = networks.objectives["gan"]
    assert isinstance(gan, Gan)
    return gan


def _scaled(factor: float, **fields: Any) -> Networks:
    """Networks whose critic's last layer is scaled: 0 makes it constant."""
    networks = build(critic=PATCHES, **fields)
    with torch.no_grad():
        for parameter in _gan(networks).critic.layers[-1].parameters():  # type: ignore[operator, union-attr, index]
            parameter.mul_(factor)
    return networks


def _run(
    networks: Networks, caplog: pytest.LogCaptureFixture, steps: int = 5
) -> tuple[list[StepResult], str]:
    """Steps in which nothing learns, and the warnings."""
    training = Training(networks, World(), lr=0.0, critic_lr=0.0)
    with caplog.at_level(logging.WARNING):
        results = [training.step(index) for index in range(steps)]
    assert all(result.skipped is None for result in results)
    return results, "\n".join(record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(
    ("accuracy", "size", "exposed", "shown"),
    [
        (0.8, 2.0, True, set()),
        (0.96, 2.0, True, {"winning"}),
        (0.5, 2.0, True, {"blind"}),
        (0.0, 2.0, True, {"blind"}),
        (0.5, 2.0, False, set()),
        (1.0, 1e3, False, {"winning", "loud"}),
        (0.8, float("inf"), True, {"loud"}),
    ],
)
def test_signs_of_a_step(accuracy: float, size: float, exposed: bool, shown: set[str]) -> None:
    found = critic_signs(CONFIG, torch.tensor(accuracy), torch.tensor(size), exposed=exposed)
    assert {sign for sign, flag in zip(SIGNS, found.tolist(), strict=False) if flag} == shown


def test_only_steps_in_a_row_count_and_each_sign_is_said_once() -> None:
    steps, said = torch.zeros(4, dtype=torch.int64), []
    for shown in ([1, 0, 0, 1], [1, 0, 0, 1], [0, 0, 0, 1], [1, 0, 0, 1], [1, 0, 0, 0], [1, 0, 0, 0]):
        steps = counted(steps, torch.tensor(shown, dtype=torch.bool))
        said.append(advice(CONFIG, steps.tolist()))
    assert [len(lines) for lines in said] == [0, 0, 1, 0, 0, 1]
    assert "adaptive weight was at its limit 10000 for 3 steps" in said[2][0]
    assert "was right in over 95 % for 3 steps" in said[5][0]


def test_a_critic_that_tells_nothing_apart(caplog: pytest.LogCaptureFixture) -> None:
    results, said = _run(_scaled(0.0, alarm_steps=3), caplog)
    assert [result.report[ALARM] for result in results] == [0, 0, 0, 1, 1]
    assert said.count("no better than chance for 3 steps") == 1
    assert results[0].report["gan.critic/accuracy"] <= 0.5


def test_an_adaptive_weight_at_its_limit(caplog: pytest.LogCaptureFixture) -> None:
    results, said = _run(build(critic=PATCHES, alarm_steps=2, limit=1e-6), caplog)
    assert all(result.report["gan/d_weight"] == 1e-6 for result in results)
    assert [result.report[ALARM] for result in results] == [0, 1, 1, 1, 1]  # counted before the critic's turn
    assert said.count("was at its limit 1e-06 for 2 steps") == 1


def test_logits_that_blow_up(caplog: pytest.LogCaptureFixture) -> None:
    results, said = _run(_scaled(1e8, alarm_steps=2), caplog)
    assert [result.report[ALARM] for result in results] == [0, 0, 1, 1, 1]
    assert said.count("mean absolute logit was above 100 for 2 steps") == 1


def test_a_critic_in_its_warm_up_may_be_blind(caplog: pytest.LogCaptureFixture) -> None:
    results, said = _run(_scaled(0.0, alarm_steps=1, warmup=4), caplog)
    assert [result.report[ALARM] for result in results] == [0, 0, 0, 0, 0] and not said


@pytest.mark.parametrize("pause", [False, True])
def test_a_pause_keeps_the_loss_from_the_decoder_while_there_is_an_alarm(pause: bool) -> None:
    alone = build(critic=PATCHES)
    del alone.objectives["gan"]  # type: ignore[attr-defined]
    expected = Capture(alone, World())
    JointStep(alone, World(), ForwardOptions(total=10), update=expected)(batches(0), 0)
    ours = build(critic=PATCHES, alarm_pause=pause)
    _gan(ours).get_buffer("sign_steps")[0] = 100
    capture = Capture(ours, World())
    step = JointStep(ours, World(), ForwardOptions(total=10), update=capture, critics=capture)
    result = step(batches(0), 0)
    assert result.report["gan/exposure"] == (0 if pause else 1)
    assert result.report["gan/d_weight"] > 0 and "gan.critic/critic" in result.terms
    same = all(torch.allclose(capture.found[name], value) for name, value in expected.found.items())
    assert same == pause


def test_the_pause_ends_with_the_alarm() -> None:
    training = Training(build(critic=PATCHES, alarm_pause=True, alarm_steps=1), World())
    gan = _gan(training.networks)
    gan.get_buffer("sign_steps")[2] = 5  # loud, which this critic no longer is
    assert [training.step(index).report["gan/exposure"] for index in range(3)] == [0, 1, 1]
