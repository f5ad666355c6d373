"""Line charts as inline SVG without scripts, in colours for colour-blind readers. Imports no torch.

Only numbers are written here; the template escapes all text.
"""

from __future__ import annotations

import base64
import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

WIDTH, HEIGHT = 560, 250
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 12, 34
COLORS = 8
"""Line styles of the style sheet (Okabe and Ito's palette); further series repeat them, dashed."""
MAX_POINTS = 400
"""Points of a drawn line; longer series are averaged over neighbours, and the chart says so."""

Axis = Literal["auto", "zero"]
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A grid line: `at` in SVG units, and its label."""

    at: float
    label: str


@dataclass(frozen=True, kw_only=True)
class Line:
    """One series, ready to draw.

    Attributes:
        name: Its name in the legend.
        path: SVG path data.
        style: Number of its colour.
        dashed: Whether the colour was used before.
        last: Its last value, as text.
    """

    name: str
    path: str
    style: int
    dashed: bool
    last: str


@dataclass(frozen=True, kw_only=True)
class Level:
    """A horizontal line: its name, its value as text, and `at` in SVG units."""

    name: str
    value: str
    at: float


@dataclass(frozen=True, kw_only=True)
class Chart:
    """What the template draws.

    Attributes:
        title: What is shown.
        unit: Unit of the vertical axis, or empty.
        logarithmic: Whether the vertical axis is logarithmic.
        averaged: Raw points averaged in each drawn one.
        lines: The series.
        levels: Horizontal lines to compare with.
        band: SVG path data of an area, or empty.
        x_ticks: Steps.
        y_ticks: Values.
        csv: What is drawn, as a ``data:`` address.
    """

    title: str
    unit: str
    logarithmic: bool
    averaged: int
    lines: tuple[Line, ...]
    levels: tuple[Level, ...]
    band: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    csv: str
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def line_chart(
    title: str,
    series: Mapping[str, Points],
    unit: str = "",
    axis: Axis = "auto",
    levels: Mapping[str, float] | None = None,
    band: tuple[Points, Points] = ((), ()),
) -> Chart | None:
    """A chart of values over steps, or None if no series has a finite value.

    Args:
        title: What is shown.
        series: Name -> (step, value), ascending; values that are not finite are left out.
        unit: Unit of the values.
        axis: ``zero`` starts at 0 and is linear; ``auto`` is logarithmic if all values are positive and span
            more than a factor of 30, else linear over their range.
        levels: Name -> value of a horizontal line, which the axis includes.
        band: Lower and upper bounds of an area, drawn below the lines.
    """
    clean = {
        name: [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
        for name, points in series.items()
    }
    clean = {name: points for name, points in clean.items() if points}
    if not clean:
        return None
    averaged = max(math.ceil(len(points) / MAX_POINTS) for points in clean.values())
    drawn = {name: _average(points, averaged) for name, points in clean.items()}
    heights = {name: value for name, value in (levels or {}).items() if math.isfinite(value)}
    bounds = [_average([p for p in points if all(map(math.isfinite, p))], averaged) for points in band]
    every = [point for points in (*drawn.values(), *bounds) for point in points]
    values, steps = [y for _, y in every] + list(heights.values()), [x for x, _ in every]
    low, high = min(values + [0.0] * (axis == "zero")), max(values)
    logarithmic = low > 0 and high / low > 30
    y_ticks = log_ticks(low, high) if logarithmic else ticks(low, high, 5)
    low, high = min(low, y_ticks[0]), max(high, y_ticks[-1])
    first, last = min(steps), max(steps)
    last = last if last > first else first + 1

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - first) / (last - first)
        if logarithmic:
            up = (math.log(y) - math.log(low)) / (math.log(high) - math.log(low))
        else:
            up = (y - low) / (high - low)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    lines = tuple(
        Line(
            name=name,
            path=_path([place(x, y) for x, y in points]),
            style=index % COLORS,
            dashed=index >= COLORS,
            last=number(clean[name][-1][1]),
        )
        for index, (name, points) in enumerate(drawn.items())
    )
    x_ticks = [value for value in ticks(first, last, 6) if first <= value <= last]
    return Chart(
        title=title,
        unit=unit,
        logarithmic=logarithmic,
        averaged=averaged,
        lines=lines,
        levels=tuple(
            Level(name=name, value=number(value), at=round(place(first, value)[1], 1))
            for name, value in heights.items()
        ),
        band=_area([place(x, y) for x, y in bounds[0]], [place(x, y) for x, y in bounds[1]]),
        x_ticks=tuple(Tick(at=round(place(x, high)[0], 1), label=number(x)) for x in x_ticks),
        y_ticks=tuple(Tick(at=round(place(first, y)[1], 1), label=number(y)) for y in y_ticks),
        csv=_csv(drawn),
    )


def number(value: float) -> str:
    """A number with three to four significant digits and without trailing zeros."""
    if value == 0:
        return "0"
    size = abs(value)
    if not math.isfinite(size):
        return str(value)
    if size >= 1e6 or size < 1e-3:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    if float(value).is_integer() and size >= 100:
        return f"{value:.0f}"
    return f"{value:.4g}"


def _average(points: list[tuple[float, float]], width: int) -> list[tuple[float, float]]:
    if width == 1:
        return points
    groups = [points[start : start + width] for start in range(0, len(points), width)]
    return [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups]


def _area(low: list[tuple[float, float]], high: list[tuple[float, float]]) -> str:
    return f"{_path(low + high[::-1])}Z" if len(low) > 1 and len(high) > 1 else ""


def _path(points: list[tuple[float, float]]) -> str:
    if len(points) == 1:  # a dot: a path of one point draws nothing
        x, y = points[0]
        points = [(x - 2, y), (x + 2, y)]
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers that enclose low .. high."""
    if high - low <= max(abs(high) * 1e-9, 1e-300):
        pad = abs(high) * 0.1 or 1.0
        low, high = low - pad, high + pad
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    start, end = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(start, end + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten that enclose low .. high, both positive; at most seven, evenly apart."""
    bottom, top = max(math.floor(math.log10(low)), -300), math.ceil(math.log10(high))
    stride = max(1, math.ceil((top - bottom) / 6))
    return [10.0 ** min(power, 308) for power in range(bottom, top + stride, stride)]


def _csv(series: Mapping[str, Points]) -> str:
    rows: dict[float, dict[str, float]] = {}
    for name, points in series.items():
        for x, y in points:
            rows.setdefault(x, {})[name] = y
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["step", *series])
    for x in sorted(rows):
        writer.writerow([number(x), *(rows[x].get(name, "") for name in series)])
    return (
        "data:text/csv;base64," + base64.b64encode(text.getvalue().encode(errors="backslashreplace")).decode()
    )
