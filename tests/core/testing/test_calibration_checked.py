"""`check_objective` finds mistakes of objectives that calibrate."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.core.testing.sound import CONFIG, Sound
from vtp_core.features import Tally
from vtp_core.step import Step
from vtp_core.testing import ConformanceError
from vtp_core.testing.checks.objectives import check_calibration
from vtp_core.testing.checks.trial import Trial


class Calibrated(Sound):
    """Its mean is that of training rows, set before step 0."""

    calibration_rows = 8

    def observe(self, step: Step) -> Tally:
        return Tally(sums=self.sums(step.encode("main").cls[:, 0]))

    def sums(self, cls: Tensor) -> dict[str, Tensor]:
        return {"sum": cls.sum(0), "count": cls.new_tensor([len(cls)])}

    @torch.no_grad()
    def calibrate(self, tally: Tally) -> None:
        self.get_buffer("mean").copy_(tally.sums["sum"] / tally.sums["count"])


class Own(Calibrated):
    def sums(self, cls: Tensor) -> dict[str, Tensor]:
        return {"sum": cls[:1].sum(0) * len(cls), "count": cls.new_tensor([len(cls)])}


class Eager(Calibrated):
    def observe(self, step: Step) -> Tally:
        self.get_buffer("mean").add_(1)
        return super().observe(step)


class Empty(Calibrated):
    @torch.no_grad()
    def calibrate(self, tally: Tally) -> None:
        self.get_buffer("mean").fill_(torch.nan)


def check(target: type[Sound]) -> None:
    check_calibration(Trial(target=target, config=CONFIG))


def test_a_sound_one_passes_and_one_that_does_not_calibrate_is_passed_over() -> None:
    check(Calibrated)
    check(Sound)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (Own, "2 ranks .* give another state mean than one rank .*: observe returns sums over rows"),
        (Eager, "observe changed 'mean'"),
        (Empty, "state mean is not finite after calibrate"),
    ],
)
def test_mistakes_are_named(target: type[Sound], message: str) -> None:
    with pytest.raises(ConformanceError, match=message):
        check(target)
