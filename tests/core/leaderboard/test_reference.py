"""Reference curves: made of a run, read back, those that ship fit their recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.core.leaderboard.test_runs import ROWS, run
from vtp_core.errors import UsageError
from vtp_core.leaderboard import reference
from vtp_core.leaderboard.reference import make_reference, shipped_reference
from vtp_core.leaderboard.runs import compare_runs
from vtp_core.recipe.shipped import shipped_recipes
from vtp_core.report.run_data import RunData

SHIPPED = sorted((Path(__file__).parents[3] / "recipes" / "reference").glob("*.json"))


def test_losses_are_averaged_and_measurements_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "POINTS", 2)
    rows: list[dict[str, Any]] = [
        {"step": s, "samples": 8 * s, "loss/l1/pixels": float(s), "lr": 1.0} for s in range(1, 5)
    ]
    found = make_reference(run(rows=[*rows, {"step": 4, "eval/m": 3.0}]))
    assert found.metrics == [
        {"step": 2, "loss/l1/pixels": 1.5},
        {"step": 4, "loss/l1/pixels": 3.5},
        {"step": 4, "eval/m": 3.0},
    ]


def test_a_reference_is_compared_like_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_reference(run(4.0))
    (tmp_path / "a.json").write_text(made.model_dump_json())
    monkeypatch.setattr(reference, "_folder", lambda: tmp_path)
    title, read = shipped_reference("a")
    found = compare_runs({"mine": run(3.0), title: read})
    assert title.startswith("reference (") and not found.differences
    assert [line.name for line in found.losses[0].lines] == ["mine", title]
    with pytest.raises(UsageError, match="none ships for recipe 'b'; there are a"):
        shipped_reference("b")
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(UsageError, match="damaged"):
        shipped_reference("a")


def test_a_run_that_is_not_whole_is_no_reference() -> None:
    with pytest.raises(UsageError, match="no measurements"):
        make_reference(RunData(name="a", metrics=ROWS, images=Path()))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_what_ships_is_of_a_shipped_recipe(path: Path) -> None:
    _, read = shipped_reference(path.stem)
    assert path.stem in shipped_recipes() and read.evaluation
    assert max(row["step"] for row in read.metrics) == read.recipe["run"]["steps"]
