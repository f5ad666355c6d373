"""Several runs on one page: numbers, curves, what differs between the recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.core.leaderboard.test_board import column, entry
from vtp_core.errors import UsageError
from vtp_core.leaderboard.page import render_runs
from vtp_core.leaderboard.runs import Difference, compare_runs
from vtp_core.report.run_data import RunData

ROWS: list[dict[str, Any]] = [
    {"step": 1, "samples": 8, "loss/l1/pixels": 2.0},
    {"step": 2, "samples": 16, "loss/l1/pixels": 1.0},
    {"step": 1, "eval/m": 3.0},
    {"step": 2, "eval/m": 4.0},
]


def run(value: float = 3.0, rows: list[dict[str, Any]] = ROWS, **recipe: Any) -> RunData:
    base = {"name": "a", "run": {"out": "runs/a", "steps": 2}, "optimizer": {"lr": 0.1}}
    return RunData(
        name="a", recipe={**base, **recipe}, metrics=rows, evaluation={"m": entry(value)}, images=Path("none")
    )


def test_numbers_are_a_table_and_curves_have_a_line_a_run() -> None:
    found = compare_runs({"one": run(3.0), "two": run(4.0), "short": run(2.0, rows=ROWS[:1])})
    assert [cell.text for cell in column(found.board, "Likeness").cells] == ["3.0", "4.0", "2.0"]
    assert [(chart.title, [line.name for line in chart.lines]) for chart in found.validation] == [
        ("Likeness", ["one", "two"])
    ]
    assert [(chart.title, [line.name for line in chart.lines]) for chart in found.losses] == [
        ("Loss l1/pixels", ["one", "two", "short"])
    ]


def test_differences_are_keys_with_other_values_apart_from_names() -> None:
    other = run(name="b", run={"out": "runs/b", "steps": 9}, optimizer={"lr": {"kind": "cosine"}})
    found = compare_runs({"one": run(), "two": other}).differences
    assert found == (
        Difference(key="optimizer.lr", values=("0.1", "-")),
        Difference(key="optimizer.lr.kind", values=("-", '"cosine"')),
        Difference(key="run.steps", values=("2", "9")),
    )
    assert not compare_runs({"one": run(), "two": run(name="b")}).differences


@pytest.mark.parametrize("count", [1, 9])
def test_two_to_eight_runs_are_compared(count: int) -> None:
    with pytest.raises(UsageError, match="2 to 8"):
        compare_runs({str(index): run() for index in range(count)})


def test_entries_that_were_edited_are_left_out() -> None:
    broken = RunData(
        name="b", evaluation={"m": {"value": 1.0}}, images=Path("none"), missing=["no eval.json"]
    )
    found = compare_runs({"one": run(), "two": broken})
    assert [cell.text for cell in column(found.board, "Likeness").cells] == ["3.0", "-"]
    assert found.missing == ("two: no eval.json",)


def test_the_page_escapes_what_runs_hold() -> None:
    text = render_runs(compare_runs({"<i>one": run(), "two": run(optimizer={"lr": "<b>"})}))
    assert "<i>" not in text and "<b>" not in text and "&lt;b&gt;" in text
    assert "Loss l1/pixels" in text and text.count("<script>") == 1
