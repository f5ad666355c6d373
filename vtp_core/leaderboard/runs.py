"""Several runs compared: their last numbers, their curves and what differs between their recipes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from vtp_core.errors import UsageError
from vtp_core.evaluation import history
from vtp_core.leaderboard.board import Board
from vtp_core.leaderboard.row import Row
from vtp_core.recipe.flat import flatten
from vtp_core.report.chart import Chart, Points, line_chart
from vtp_core.report.curves import losses_of
from vtp_core.report.run_data import RunData

MOST = 8
"""Runs that a page compares: as many as there are line colours."""
UNCOMPARED = ("name", "run.out")
"""Keys that differ between any two runs."""
NO_KEY = "-"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A key of the recipes and its value in each run."""

    key: str
    values: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What the page shows.

    Attributes:
        names: Of the runs.
        board: Their last numbers.
        validation: A chart a metric, with a line a run.
        losses: A chart a term of a loss, with a line a run.
        differences: Keys of the recipes with different values.
        missing: What can't be read of the runs, one line each.
    """

    names: tuple[str, ...]
    board: Board
    validation: tuple[Chart, ...]
    losses: tuple[Chart, ...]
    differences: tuple[Difference, ...]
    missing: tuple[str, ...]


def compare_runs(runs: Mapping[str, RunData]) -> Comparison:
    """Compares runs.

    Args:
        runs: Name -> contents of its folder.

    Raises:
        UsageError: There are fewer than two or more than eight.
    """
    if not 2 <= len(runs) <= MOST:
        raise UsageError(f"report: {len(runs)} runs; 2 to {MOST} can be compared")
    rows = [Row(name=name, results=_measured(run.evaluation)) for name, run in runs.items()]
    curves = {name: {c.metric: c.value for c in history.curves(run.metrics)} for name, run in runs.items()}
    titles = {
        key: (str(entry.get("title") or key), str(entry.get("unit") or ""))
        for run in runs.values()
        for key, entry in run.evaluation.items()
    }
    return Comparison(
        names=tuple(runs),
        board=Board(rows),
        validation=tuple(_charts(curves, lambda key: titles.get(key, (key.replace("_", " "), "")))),
        losses=tuple(
            _charts({name: losses_of(run) for name, run in runs.items()}, lambda key: (f"Loss {key}", ""))
        ),
        differences=tuple(_differences([flatten(run.recipe) for run in runs.values()])),
        missing=tuple(f"{name}: {line}" for name, run in runs.items() for line in run.missing),
    )


def _measured(evaluation: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The whole entries of an ``eval.json``; one that was edited may lack what a table needs."""
    needed = {"value", "protocol", "interval", "verdict", "title", "unit", "higher_is_better", "digits"}
    return {key: entry for key, entry in evaluation.items() if {*needed, "aspect"} <= entry.keys()}


def _charts(
    runs: Mapping[str, Mapping[str, Points]], about: Callable[[str], tuple[str, str]]
) -> Iterable[Chart]:
    """A chart for each key that a run has at two steps or more."""
    for key in dict.fromkeys(key for found in runs.values() for key in found):
        series = {name: found[key] for name, found in runs.items() if key in found}
        if max(len(points) for points in series.values()) > 1:
            title, unit = about(key)
            if (chart := line_chart(title, series, unit)) is not None:
                yield chart


def _differences(recipes: list[dict[str, Any]]) -> Iterable[Difference]:
    for key in sorted({key for recipe in recipes for key in recipe} - {*UNCOMPARED}):
        values = tuple(json.dumps(r[key], ensure_ascii=False) if key in r else NO_KEY for r in recipes)
        if len(set(values)) > 1:
            yield Difference(key=key, values=values)
