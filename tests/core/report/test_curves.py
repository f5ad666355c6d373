"""Which charts are shown, and the lines of chance that objectives declare."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from vtp_core.plugins import load_plugins
from vtp_core.report import curves
from vtp_core.report.run_data import RunData
from vtp_core.run.records import RunFolder
from vtp_core.run.report import chance_lines

RECIPES = Path(__file__).parents[3] / "recipes"


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("chance")
    (folder / "resolved.toml").write_text((RECIPES / "quickstart.toml").read_text())
    return RunFolder(folder)


def test_objectives_declare_what_their_losses_are_by_chance(quickstart: RunFolder) -> None:
    lines = chance_lines(quickstart, load_plugins())
    # 64 rows; 512 prototypes, which mim shares; half of the global crops are masked.
    assert lines == {
        "loss/clip/contrast": pytest.approx(math.log(64)),
        "loss/dino/distillation": pytest.approx(math.log(512)),
        "loss/mim/distillation": pytest.approx(0.5 * math.log(512)),
    }


def test_a_recipe_that_can_not_be_read_has_no_lines(tmp_path: Path) -> None:
    (tmp_path / "resolved.toml").write_text('name = "bare"\n')
    assert chance_lines(RunFolder(tmp_path), load_plugins()) == {}


def test_charts_have_the_line_of_chance(tmp_path: Path) -> None:
    rows = [{"step": step, "loss/dino/a": 6.0, "loss/dino/b": 1.0, "lr": 0.1} for step in range(3)]
    run = RunData(name="x", images=tmp_path, metrics=rows, chance={"loss/dino/a": 6.25, "loss/l1/x": 1.0})
    (chart,) = curves.losses(run)
    assert [(level.name, level.value) for level in chart.levels] == [("chance, a", "6.25")]
    assert [chart.title for chart in curves.expert(run)] == ["Learning rate"]


def test_validation_curves_stand_beside_their_baseline(tmp_path: Path) -> None:
    rows = [
        {"step": step, "eval/knn": 0.1 * step, "eval/once": 1.0 if step == 2 else None} for step in (1, 2)
    ]
    entry = {"value": 0.2, "title": "Nearest", "baseline": 0.05, "baseline_name": "chance"}
    run = RunData(name="x", images=tmp_path, metrics=rows, evaluation={"knn": entry})
    (chart,) = curves.validation(run)
    assert chart.title == "Nearest"
    assert [(level.name, level.value) for level in chart.levels] == [("chance", "0.05")]
