"""The report of a grid as markdown. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from vtp_core.report.chart import number
from vtp_plugins.scale.analysis import Point, Series, Shown
from vtp_plugins.scale.fit import Crossing, Gain

AXES = {
    "flops": "forward FLOPs of the training",
    "parameters": "parameters of the tokenizer",
    "samples": "samples seen",
}
MODELS = {"log-linear": "{y} = a + b log10(x)", "power law": "{y} = A x^b"}


def markdown(name: str, points: Sequence[Point], shown: Sequence[Shown], x: str, left: Sequence[str]) -> str:
    """The report.

    Args:
        name: The grid's.
        points: Finished runs.
        shown: What they show.
        x: The horizontal axis.
        left: One line for each run that is missing.
    """
    lines = [f"# {name}", "", f"{len(points)} of {len(points) + len(left)} runs are there."]
    lines += [f"- {line}" for line in left]
    lines += ["", *_table(points, shown), ""]
    for each in shown:
        lines += [*_metric(each, AXES.get(x, x)), ""]
    if shown:
        lines.append(
            "Least squares; 95 % intervals of Student's distribution with errors by training run (CR2), for "
            "the mean over seeds. A crossing's interval holds the places where the curves don't differ "
            "significantly."
        )
    return "\n".join(lines).rstrip() + "\n"


def _table(points: Sequence[Point], shown: Sequence[Shown]) -> Iterator[str]:
    if not points:
        return
    titles = ["run", "FLOPs", "parameters", "samples", *(each.title for each in shown)]
    yield "| " + " | ".join(titles) + " |"
    yield "| " + " | ".join(["---"] * len(titles)) + " |"
    for point in points:
        cells = [point.name, f"{point.cost['flops']:.3g}"]
        cells += [f"{point.cost[key]:,.0f}" for key in ("parameters", "samples")]
        for each in shown:
            entry = point.metrics.get(each.metric)
            cells.append("–" if entry is None else number(float(entry["value"])))
        yield "| " + " | ".join(cells) + " |"


def _metric(shown: Shown, axis: str) -> Iterator[str]:
    unit = f", {shown.unit}" if shown.unit else ""
    direction = "more" if shown.higher_is_better else "less"
    yield f"## {shown.title}{unit} ({direction} is better)"
    yield ""
    yield f"Model: {MODELS[shown.model].format(y=shown.metric)}, {shown.model}; x: {axis}."
    yield ""
    for series in shown.series:
        yield f"- {series.name}: {describe_curve(series, shown)}"
    for first, second, found in shown.crossings:
        yield f"- {first} and {second}: {describe_crossing(first, second, found)}"
    for note in shown.notes:
        yield f"- note: {note}"


def describe_curve(series: Series, shown: Shown) -> str:
    """A curve's slope and gain, in words."""
    curve = series.curve
    if curve is None:
        return f"{_count(len(series.points), 'point')}, all at one x: no curve"
    value, low, high = curve.slope()
    what = "exponent" if shown.model == "power law" else "slope a decade"
    text = f"{what} {value:.3g}{_interval(low, high)}"
    text += f"; {_count(curve.line.points, 'point')} of {_count(curve.line.runs, 'training run')}"
    if series.gain is not None and shown.between is not None:
        start, end = shown.between
        text += f"; from {start:.3g} to {end:.3g} {describe_gain(series.gain)}"
    return text


def describe_gain(gain: Gain) -> str:
    """A relative gain in words."""
    word = "better" if gain.value >= 0 else "worse"
    sign = 100 if gain.value >= 0 else -100
    low, high = sorted((sign * gain.low, sign * gain.high))
    return f"{100 * abs(gain.value):.1f} % {word}{_interval(low, high, ' %')}"


def describe_crossing(first: str, second: str, found: Crossing) -> str:
    """A crossing in words."""
    if found.x is None:
        text = "parallel, no crossing"
    else:
        where = "inside" if found.inside else "outside"
        text = f"cross at {found.x:.3g}, {where} the range that both were measured in; "
        if not found.known:
            text += "no interval"
        elif found.low is None and found.high is None:
            text += "95 % interval without bounds: their slopes don't differ significantly"
        else:
            low = "no bound" if found.low is None else f"{found.low:.3g}"
            high = "no bound" if found.high is None else f"{found.high:.3g}"
            text += f"95 % interval {low} to {high}"
    if found.ahead:
        return f"{text}; {first if found.ahead > 0 else second} is ahead over the whole range"
    for end, where in zip(found.ends, ("lower", "upper"), strict=True):
        if end:
            text += f"; {first if end > 0 else second} is ahead at the {where} end of the range"
    return text


def _interval(low: float, high: float, unit: str = "") -> str:
    if not (math.isfinite(low) and math.isfinite(high)):
        return ", no interval"
    return f" ({low:.3g} to {high:.3g}{unit})"


def _count(number_of: int, what: str) -> str:
    return f"{number_of} {what}" + ("" if number_of == 1 else "s")


def costs_text(named: Sequence[tuple[str, str]], costs: Sequence[Mapping[str, float]]) -> str:
    """What a dry run prints: name, state and cost of each run."""
    table = [("run", "state", "FLOPs", "parameters", "samples")]
    for (name, state), cost in zip(named, costs, strict=True):
        table.append((name, state, f"{cost['flops']:.3g}", f"{cost['parameters']:,}", f"{cost['samples']:,}"))
    widths = [max(len(row[column]) for row in table) for column in range(5)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    )
