"""Which charts are shown, and the lines of chance that objectives declare."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from vtp_core.plugins import load_plugins
from vtp_core.report import curves
from vtp_core.report.run_data import RunData
from vtp_core.report.tables import latent
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


def test_validation_curves_have_interval_and_trivial_answer(tmp_path: Path) -> None:
    parts = {"": 0.1, "/low": 0.05, "/high": 0.15, "/baseline": 0.02}
    rows = [
        {"step": step, **{f"eval/knn{part}": v * step for part, v in parts.items()}} for step in (1, 2, 3)
    ]
    rows[1]["eval/once"] = 1.0
    entry = {"value": 0.3, "title": "Nearest", "baseline": 0.06, "baseline_name": "chance"}
    run = RunData(name="x", images=tmp_path, metrics=rows, evaluation={"knn": entry})
    (chart,) = curves.validation(run)
    assert chart.title == "Nearest" and len(chart.lines) == 1
    assert [(level.name, level.value) for level in chart.levels] == [("chance", "0.06")]
    area = [tuple(map(float, pair.split())) for pair in chart.band.strip("MZ").split("L")]
    line = [tuple(map(float, pair.split())) for pair in chart.lines[0].path.strip("M").split("L")]
    assert len(area) == 6 and [x for x, _ in area[:3]] == [x for x, _ in line] == [x for x, _ in area[:2:-1]]
    for (_, low), (_, value), (_, high) in zip(area[:3], line, area[:2:-1], strict=True):
        assert low > value > high and low - value == pytest.approx(value - high, abs=0.11)


def test_the_spectrum_is_the_variance_of_each_component() -> None:
    statistics = {"mean": [0.0, 0.0], "std": [1.0, 2.0], "explained": [0.75, 0.25, 0.0]}
    found = latent(RunData(name="a", gallery={"latent": statistics}, images=Path("none")))
    assert found is not None
    shown = [(row["index"], row["fraction"], row["width"]) for row in found["spectrum"]]
    assert shown == [(1, 75.0, 100.0), (2, 25.0, pytest.approx(100 / 3))]
    assert found["effective_rank"] == pytest.approx(math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)))
