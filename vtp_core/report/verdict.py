"""The summary at the top of the report: status, scores and warnings."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Any, get_args

from vtp_core.evaluation.protocol import Verdict
from vtp_core.report.chart import number
from vtp_core.report.run_data import RunData, is_number, table

VERDICTS = get_args(Verdict)
MOST_DIGITS = 12
"""Decimals that a page shows, whatever a file asks for."""


@dataclass(frozen=True, kw_only=True)
class Fact:
    """A name, its value, and a line below it."""

    name: str
    value: str
    note: str


@dataclass(frozen=True, kw_only=True)
class ShownScore:
    """A metric beside its baseline.

    Attributes:
        metric: Its key in ``eval.json``.
        title: Its name for readers.
        value: With its unit.
        baseline: With its unit, or empty.
        baseline_name: What the baseline is.
        interval: Its bounds, or empty.
        verdict: "better", "within noise" or "worse" than the baseline, by two standard errors; empty if
            the file doesn't say.
        times: The value as a multiple of chance, where chance is known.
        bar: Length of the value's bar, percent.
        mark: Position of the baseline on it, percent, or None.
        protocol: How it was measured.
        also: Further numbers.
    """

    metric: str
    title: str
    value: str
    baseline: str
    baseline_name: str
    interval: str
    verdict: str
    times: str
    bar: float
    mark: float | None
    protocol: str
    also: list[tuple[str, str]]


def facts(run: RunData) -> list[Fact]:
    """Status, steps, samples, time and speed."""
    rows = run.metrics
    planned = table(run.recipe.get("run")).get("steps")
    last = _last(rows, "step")
    # The last line may be some steps before the end, if the run logs every few steps.
    finished = bool(run.artefact) and run.artefact.get("step") == planned
    status = "complete" if finished else ("stopped" if last is not None else "not started")
    result = [
        Fact(
            name="status",
            value=status,
            note="all planned steps done" if finished else "resume with vtp run --resume",
        ),
        Fact(
            name="steps",
            value=_whole(planned if finished else last),
            note=f"of {_whole(planned)} planned",
        ),
    ]
    if (samples := _last(rows, "samples")) is not None:
        result.append(Fact(name="samples", value=_whole(samples), note="drawn from the training data"))
    if is_number(seconds := _seconds(rows)) and seconds > 0:
        result.append(Fact(name="time", value=_duration(seconds), note="of training alone"))
    speeds = [row["rows_per_s"] for row in rows if is_number(row.get("rows_per_s"))]
    if speeds:
        device = str(run.environment.get("device", ""))
        result.append(
            Fact(name="speed", value=f"{number(median(speeds))} rows/s", note=f"median {device}".strip())
        )
    return result


def scores(run: RunData) -> list[ShownScore]:
    """Every number of ``eval.json``."""
    return [_score(name, entry) for name, entry in run.evaluation.items() if is_number(entry.get("value"))]


def alarms(run: RunData) -> list[str]:
    """Problems that a reader should know first."""
    found = []
    nulls = [
        row.get("step")
        for row in run.metrics
        if any(value is None for key, value in row.items() if key.startswith("loss/"))
    ]
    if nulls:
        found.append(f"{len(nulls)} logged steps have a loss that is not finite, first step {nulls[0]}")
    if skipped := sum(1 for row in run.metrics if row.get("skipped")):
        found.append(f"{skipped} logged steps were skipped for a loss or gradient that is not finite")
    raised = sorted(
        {key for row in run.metrics for key in row if key.startswith("report/") and key.endswith("/alarm")}
    )
    for key in raised:
        if steps := [row.get("step") for row in run.metrics if row.get(key)]:
            name = key.removeprefix("report/").removesuffix("/alarm")
            found.append(f"{name} had an alarm in {len(steps)} logged steps, first step {steps[0]}")
    for score in scores(run):
        if score.verdict == "worse":
            found.append(f"{score.title} is worse than a trivial answer ({score.baseline_name})")
        if score.verdict == "within noise":
            found.append(f"{score.title} can't be told from a trivial answer ({score.baseline_name})")
        if "PARTIAL" in score.protocol:
            found.append(f"{score.title} was measured on a part of its set")
    for name, what in table(run.environment.get("incomplete_data")).items():
        found.append(f"training source {name}: {what}")
    if run.bad_samples:
        found.append(f"{sum(run.bad_samples.values())} bad samples were replaced; see Data")
    return found + [f"This folder has {what}." if what.startswith("no ") else what for what in run.missing]


def _score(name: str, entry: dict[str, Any]) -> ShownScore:
    value = float(entry["value"])
    baseline = float(entry["baseline"]) if is_number(entry.get("baseline")) else None
    name_of_baseline = str(entry.get("baseline_name") or "baseline")
    unit = str(entry.get("unit") or "")
    fraction = not unit and 0 <= value <= 1
    # Files of older versions hold no `digits`.
    digits = entry.get("digits", 2 if unit else 3 if fraction else None)
    top = 1.0 if fraction else max(abs(value), abs(baseline or 0.0), 1e-12) * 1.15
    chance = table(entry.get("baselines")).get("chance", baseline if name_of_baseline == "chance" else None)
    bounds = entry.get("interval")
    interval = ""
    if isinstance(bounds, list) and len(bounds) == 2 and all(is_number(bound) for bound in bounds):
        interval = " to ".join(_shown(bound, "", digits) for bound in bounds)
    return ShownScore(
        metric=name,
        title=str(entry.get("title") or name.replace("_", " ")),
        value=_shown(value, unit, digits),
        baseline=_shown(baseline, unit, digits) if baseline is not None else "",
        baseline_name=name_of_baseline,
        interval=interval,
        verdict=str(state) if (state := entry.get("verdict")) in VERDICTS else "",
        times=f"{value / chance:.1f} x chance" if is_number(chance) and chance else "",
        bar=_percent(value / top),
        mark=_percent(baseline / top) if baseline is not None else None,
        protocol=str(entry.get("protocol", "")),
        also=[
            (key.replace("_", " "), number(float(item)))
            for key, item in table(entry.get("also")).items()
            if is_number(item)
        ],
    )


def _percent(fraction: float) -> float:
    return max(0.0, min(100.0, 100 * fraction))


def _shown(value: float, unit: str, digits: object) -> str:
    whole = isinstance(digits, int) and not isinstance(digits, bool) and 0 <= digits <= MOST_DIGITS
    text = f"{value:.{digits}f}" if whole else number(value)
    return f"{text} {unit}".rstrip()


def _last(rows: list[dict[str, Any]], key: str) -> float | None:
    values = [row[key] for row in rows if is_number(row.get(key))]
    return values[-1] if values else None


def _seconds(rows: list[dict[str, Any]]) -> float:
    """Training time: the logged samples divided by their logged rates."""
    seconds = before = 0.0
    for row in rows:
        if is_number(row.get("samples")) and is_number(row.get("rows_per_s")) and row["rows_per_s"] > 0:
            seconds += max(row["samples"] - before, 0) / row["rows_per_s"]
            before = row["samples"]
    return seconds


def _whole(value: object) -> str:
    return f"{int(value):,}".replace(",", " ") if is_number(value) else "unknown"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
