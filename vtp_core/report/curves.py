"""Which charts a page shows: validation curves, losses, and what experts look at. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from vtp_core.evaluation import history
from vtp_core.report.chart import Axis, Chart, Points, line_chart
from vtp_core.report.run_data import RunData, is_number


def validation(run: RunData) -> list[Chart]:
    """A chart for each metric that was measured at two steps or more, with interval and trivial answer."""
    charts: list[Chart] = []
    for curve in history.curves(run.metrics):
        entry = run.evaluation.get(curve.metric, {})
        if len(curve.value) < 2:
            continue
        # The trivial answer can change from step to step; the last one is that of the numbers above.
        name = str(entry.get("baseline_name") or "baseline")
        charts += _chart(
            str(entry.get("title") or curve.metric.replace("_", " ")),
            {"value": list(curve.value)},
            str(entry.get("unit") or ""),
            levels={name: curve.baseline[-1][1]} if curve.baseline else {},
            band=(curve.low, curve.high),
        )
    return charts


def losses_of(run: RunData) -> dict[str, Points]:
    """``OBJECTIVE/TERM`` -> (step, value) of each logged loss."""
    keys = [key for key in _keys(run.metrics, "loss/") if key.count("/") >= 2]
    return {key.removeprefix("loss/"): _points(run.metrics, key) for key in keys}


def losses(run: RunData) -> list[Chart]:
    """A chart for each objective; a term that is known to be worth something by chance has a line there."""
    by_objective: dict[str, list[str]] = {}
    for key in _keys(run.metrics, "loss/"):
        if key.count("/") >= 2:
            by_objective.setdefault(key.split("/")[1], []).append(key)
    charts: list[Chart] = []
    for name, keys in by_objective.items():
        series = {key.split("/", 2)[2]: _points(run.metrics, key) for key in keys}
        found = {key.split("/", 2)[2]: run.chance[key] for key in keys if key in run.chance}
        levels = {f"chance, {term}" if len(keys) > 1 else "chance": value for term, value in found.items()}
        charts += _chart(f"Loss of {name}", series, levels=levels)
    return charts


def expert(run: RunData) -> list[Chart]:
    """Weighted losses, gradients, learning rate, throughput, and what objectives report."""
    rows = run.metrics
    wanted: list[tuple[str, Mapping[str, str], str, Axis]] = []
    for title, prefix in (("Weighted losses", "weighted/"), ("Gradient norm by owner", "grad_norm/")):
        wanted.append((title, {k.removeprefix(prefix): k for k in _keys(rows, prefix)}, "", "auto"))
    places: dict[str, dict[str, str]] = {}
    for key in _keys(rows, "grad_norm_at/"):
        place, _, objective = key.removeprefix("grad_norm_at/").rpartition("/")
        places.setdefault(place, {})[objective] = key
    wanted += [
        (f"Gradient at {place}, by objective", keys, "", "auto")
        for place, keys in places.items()
        if len(keys) > 1
    ]
    rates = {k.removeprefix("lr/"): k for k in _keys(rows, "lr") if k == "lr" or k.startswith("lr/")}
    wanted.append(("Learning rate", rates, "", "zero"))
    wanted.append(("Throughput", {"rows": "rows_per_s"}, "rows/s", "zero"))
    wanted.append(("Memory, largest so far", {"memory": "memory_mib"}, "MiB", "zero"))
    for key in _keys(rows, "report/"):
        owner, _, what = key.removeprefix("report/").partition("/")
        wanted.append((f"Reported by {owner}: {what or owner}", {what or owner: key}, "", "auto"))
    return [
        chart
        for title, keys, unit, axis in wanted
        for chart in _chart(title, {name: _points(rows, key) for name, key in keys.items()}, unit, axis)
    ]


def _chart(
    title: str,
    series: Mapping[str, list[tuple[float, float]]],
    unit: str = "",
    axis: Axis = "auto",
    levels: Mapping[str, float] | None = None,
    band: tuple[Points, Points] = ((), ()),
) -> Iterable[Chart]:
    chart = line_chart(title, series, unit, axis, levels, band)
    return [] if chart is None else [chart]


def _points(rows: list[dict[str, Any]], key: str) -> list[tuple[float, float]]:
    return [
        (float(row["step"]), float(row[key]))
        for row in rows
        if is_number(row.get(key)) and is_number(row.get("step"))
    ]


def _keys(rows: list[dict[str, Any]], prefix: str) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row if key.startswith(prefix)))
