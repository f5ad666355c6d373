"""The numbers of the report: three cards, each score beside its baseline, and warnings. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from vtp_core.evaluation.protocol import Verdict, shown_beside
from vtp_core.report.chart import number
from vtp_core.report.run_data import RunData, is_number, table

MOST_DIGITS = 12
"""Decimals that a page shows, whatever a file asks for."""
MOST_ALSO = 16
"""Further numbers of a score that a page shows; ``eval.json`` has all."""
VERDICTS = get_args(Verdict)
CARDS = (
    ("fidelity", "Reconstructs", "Does the decoder give the image back?"),
    ("understanding", "Understands", "Do latents and features tell what is in the image?"),
    ("generation", "Generatable", "Can a generative model learn the latents?"),
)


@dataclass(frozen=True, kw_only=True)
class ShownScore:
    """A metric beside its baseline.

    Attributes:
        metric: Its key in ``eval.json``.
        title: Its name for readers.
        value: With its unit.
        interval: Its bounds, or empty.
        beside: Further numbers without which it can't be read, or empty.
        baseline: With its unit, or empty.
        baseline_name: What the baseline is.
        verdict: "better", "within noise" or "worse" than the baseline, by two standard errors; empty if
            the file doesn't say.
        times: The value as a multiple of chance, where chance is known.
        bar: Length of the value's bar, percent.
        mark: Position of the baseline on it, percent, or None.
        span: Start and length of the interval on it, percent, or None.
        protocol: How it was measured.
        also: Further numbers.
        notes: Sentences that a reader should know.
    """

    metric: str
    title: str
    value: str
    interval: str
    beside: str
    baseline: str
    baseline_name: str
    verdict: str
    times: str
    bar: float
    mark: float | None
    span: tuple[float, float] | None
    protocol: str
    also: list[tuple[str, str]]
    notes: list[str]


@dataclass(frozen=True, kw_only=True)
class Card:
    """One question, the scores that answer it, and what to say if there are none."""

    aspect: str
    title: str
    question: str
    scores: list[ShownScore]
    empty: str = "Not measured."


def cards(run: RunData) -> list[Card]:
    """The three cards, and one of numbers whose files don't say which question they answer."""
    by_aspect: dict[str, list[ShownScore]] = {aspect: [] for aspect, _, _ in CARDS}
    other: list[ShownScore] = []
    for name, entry in _measured(run):
        aspect = entry.get("aspect")
        by_aspect.get(aspect if isinstance(aspect, str) else "", other).append(_score(name, entry))
    empty = "Nothing that says so; see the other numbers." if other else "Not measured."
    shown = [
        Card(aspect=aspect, title=title, question=question, scores=by_aspect[aspect], empty=empty)
        for aspect, title, question in CARDS
    ]
    if other:
        shown.append(Card(aspect="", title="Other numbers", question="", scores=other))
    return shown


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
    for score in (_score(name, entry) for name, entry in _measured(run)):
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


def _measured(run: RunData) -> list[tuple[str, dict[str, Any]]]:
    return [(name, entry) for name, entry in run.evaluation.items() if is_number(entry.get("value"))]


def _score(name: str, entry: Mapping[str, Any]) -> ShownScore:
    value = float(entry["value"])
    baseline = float(entry["baseline"]) if is_number(entry.get("baseline")) else None
    name_of_baseline = str(entry.get("baseline_name") or "baseline")
    unit = str(entry.get("unit") or "")
    fraction = not unit and 0 <= value <= 1
    # Files of older versions hold no `digits`, `interval` and `verdict`.
    digits = entry.get("digits", 2 if unit else 3 if fraction else None)
    bounds = entry.get("interval")
    known = isinstance(bounds, list) and len(bounds) == 2 and all(is_number(bound) for bound in bounds)
    low, high = (float(bounds[0]), float(bounds[1])) if known and isinstance(bounds, list) else (value, value)
    top = 1.0 if fraction else max(abs(value), abs(baseline or 0.0), abs(high), 1e-12) * 1.15
    chance = table(entry.get("baselines")).get("chance", baseline if name_of_baseline == "chance" else None)
    notes, asked = entry.get("notes"), entry.get("beside")
    further = {key: float(item) for key, item in table(entry.get("also")).items() if is_number(item)}
    beside = {key: further[key] for key in further if isinstance(asked, list) and key in asked}
    also = [(key.replace("_", " "), number(item)) for key, item in further.items()]
    if len(also) > MOST_ALSO:
        also = [*also[:MOST_ALSO], (f"and {len(also) - MOST_ALSO} more in eval.json", "")]
    start, end = _percent(low / top), _percent(high / top)
    return ShownScore(
        metric=name,
        title=str(entry.get("title") or name.replace("_", " ")),
        value=_shown(value, unit, digits),
        interval=f"{_shown(low, '', digits)} to {_shown(high, '', digits)}" if known else "",
        beside=shown_beside({"also": beside, "beside": beside}),
        baseline=_shown(baseline, unit, digits) if baseline is not None else "",
        baseline_name=name_of_baseline,
        verdict=str(state) if (state := entry.get("verdict")) in VERDICTS else "",
        times=f"{value / chance:.1f} x chance" if is_number(chance) and chance else "",
        bar=_percent(value / top),
        mark=_percent(baseline / top) if baseline is not None else None,
        span=(start, end - start) if known else None,
        protocol=str(entry.get("protocol", "")),
        also=also,
        notes=[str(note) for note in notes] if isinstance(notes, list) else [],
    )


def _percent(fraction: float) -> float:
    return max(0.0, min(100.0, 100 * fraction))


def _shown(value: float, unit: str, digits: object) -> str:
    whole = isinstance(digits, int) and not isinstance(digits, bool) and 0 <= digits <= MOST_DIGITS
    text = f"{value:.{digits}f}" if whole else number(value)
    return f"{text} {unit}".rstrip()
