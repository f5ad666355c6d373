"""A run calibrates its bottleneck once, and leaves what is frozen or loaded as it is."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from tests.core.run.tiny_run import RECIPE, arguments, state, vtp
from vtp_core.cli.main import main

pytestmark = pytest.mark.slow

PLUGIN = Path(__file__).with_name("calibrating.py")
SHIFT = RECIPE.replace('use = "linear"', 'use = "calibrating.shift"')


def run(folder: Path, *sets: str, **options: Any) -> Result:
    result = vtp(folder, *sets, recipe=SHIFT, plugin=PLUGIN, **options)
    assert result.exit_code == 0, result.output
    return result


def bottleneck(folder: Path) -> dict[str, torch.Tensor]:
    prefix = "tokenizer.bottleneck."
    return {
        name.removeprefix(prefix): value for name, value in state(folder).items() if name.startswith(prefix)
    }


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one step: shorter than the calibration, which takes 5 batches of 4 rows."""
    folder = tmp_path_factory.mktemp("first")
    run(folder, "run.steps=1")
    return folder


def test_a_short_run_sees_all_rows_that_it_asks_for(first: Path) -> None:
    found = bottleneck(first)
    assert found["calibrations"] == 1
    assert found["mean"].isfinite().all()
    assert found["followed"] == 1


def test_a_resume_does_not_calibrate_again(first: Path, tmp_path: Path) -> None:
    shutil.copytree(first / "run", tmp_path / "run")
    called = arguments(tmp_path, "run.steps=2", resume=True, recipe=SHIFT, plugin=PLUGIN)
    result = CliRunner().invoke(main, [*called, "--allow-change"])
    assert result.exit_code == 0, result.output
    found = bottleneck(tmp_path)
    assert (found["calibrations"], found["followed"]) == (1, 2)


def test_a_later_stage_keeps_the_calibration_that_it_loads(first: Path, tmp_path: Path) -> None:
    run(tmp_path, f'init_from="{first / "run"}"', "run.steps=1", "run.seed=9")
    found, before = bottleneck(tmp_path), bottleneck(first)
    assert found["calibrations"] == 1
    assert torch.equal(found["mean"], before["mean"])


def test_a_stage_that_starts_it_fresh_calibrates(first: Path, tmp_path: Path) -> None:
    table = f'init_from={{path = "{first / "run"}", fresh = ["bottleneck"]}}'
    run(tmp_path, table, "run.steps=1", "run.seed=9")
    found, before = bottleneck(tmp_path), bottleneck(first)
    assert found["calibrations"] == 1
    assert not torch.equal(found["mean"], before["mean"])


def test_a_frozen_bottleneck_does_not_follow(first: Path, tmp_path: Path) -> None:
    run(tmp_path, f'init_from="{first / "run"}"', "run.steps=3", 'freeze=["bottleneck"]')
    for name, value in bottleneck(first).items():
        assert torch.equal(bottleneck(tmp_path)[name], value), name
