"""The figure of a grid as one SVG: a panel a metric, points, fits with bands, crossings. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

import numpy

from vtp_core.report.chart import log_ticks, number, ticks
from vtp_plugins.scale.analysis import Series, Shown
from vtp_plugins.scale.text import AXES

WIDTH, HEIGHT, COLUMNS = 520, 380, 2
LEFT, RIGHT, TOP, BOTTOM = 64, 14, 34, 108
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#777777")
"""Okabe and Ito's palette, which colour-blind readers tell apart."""
SHAPES = ("circle", "square", "diamond", "triangle")
SAMPLES = 60
"""Places at which a curve is drawn."""


def draw(name: str, shown: Sequence[Shown], x: str) -> str:
    """The figure as a text of SVG.

    Args:
        name: The grid's, the figure's title.
        shown: Its metrics.
        x: The horizontal axis.
    """
    columns = min(COLUMNS, max(len(shown), 1))
    rows = max(math.ceil(len(shown) / columns), 1)
    width, height = columns * WIDTH, rows * HEIGHT + 34
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="sans-serif" font-size="12">',
        f"<title>{escape(name)}</title>",
        '<rect width="100%" height="100%" fill="#fff"/>',
        f'<text x="{LEFT}" y="22" font-size="15" font-weight="bold">{escape(name)}</text>',
    ]
    if not shown:
        parts.append(f'<text x="{LEFT}" y="60">nothing is measured yet</text>')
    for index, each in enumerate(shown):
        at = (index % columns) * WIDTH, (index // columns) * HEIGHT + 34
        parts.append(f'<g transform="translate({at[0]} {at[1]})">')
        parts += _panel(each, index, AXES.get(x, x))
        parts.append("</g>")
    return "\n".join([*parts, "</svg>"]) + "\n"


@dataclass(frozen=True)
class _Scale:
    """From values to SVG units."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool

    def __call__(self, value: float) -> float:
        move: Callable[[float], float] = math.log10 if self.logarithmic else float
        part = (move(value) - move(self.low)) / (move(self.high) - move(self.low))
        return self.start + part * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Values to name inside the range."""
        wide = self.logarithmic and self.high / self.low > 20
        found = log_ticks(self.low, self.high) if wide else ticks(self.low, self.high, 5)
        return [value for value in found if self.low <= value <= self.high]


def _scales(shown: Shown) -> tuple[_Scale, _Scale]:
    """Both axes, around the points: a band may be much wider."""
    xs = [x for series in shown.series for x, _ in series.points]
    ys = [y for series in shown.series for _, y in series.points]
    x_low, x_high = min(xs) / 1.2, max(xs) * 1.2
    if shown.model == "power law":
        margin = max((max(ys) / min(ys)) ** 0.25, 1.05)
        y_low, y_high = min(ys) / margin, max(ys) * margin
    else:
        pad = 0.25 * (max(ys) - min(ys)) or 0.05 * abs(max(ys)) or 1.0
        y_low, y_high = min(ys) - pad, max(ys) + pad
    return (
        _Scale(x_low, x_high, LEFT, WIDTH - RIGHT, True),
        _Scale(y_low, y_high, HEIGHT - BOTTOM, TOP, shown.model == "power law"),
    )


def _panel(shown: Shown, index: int, axis: str) -> Iterator[str]:
    across, up = _scales(shown)
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    unit = f", {shown.unit}" if shown.unit else ""
    direction = "more" if shown.higher_is_better else "less"
    title = f"{shown.title}{unit} ({direction} is better)"
    yield f'<text x="{LEFT}" y="20" font-weight="bold">{escape(title)}</text>'
    clip = f"clip{index}"
    size = f'width="{right - LEFT}" height="{bottom - TOP}"'
    yield f'<clipPath id="{clip}"><rect x="{LEFT}" y="{TOP}" {size}/></clipPath>'
    for value in up.ticks():
        y = up(value)
        yield f'<line x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>'
        yield f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{number(value)}</text>'
    for value in across.ticks():
        x = across(value)
        yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}" stroke="#eee"/>'
        yield f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{number(value)}</text>'
    yield f'<rect x="{LEFT}" y="{TOP}" {size} fill="none" stroke="#999"/>'
    yield f'<text x="{LEFT}" y="{bottom + 32}" fill="#555">{shown.model}, 95 % bands</text>'
    label = f'<text x="{right}" y="{bottom + 32}" text-anchor="end" fill="#555">'
    yield f"{label}{escape(axis)}, log scale</text>"
    yield f'<g clip-path="url(#{clip})">'
    yield from _crossings(shown, across, bottom)
    styles = list(_styles(shown.series))
    for series, (color, _) in zip(shown.series, styles, strict=True):
        yield from _curve(series, color, across, up)
    for series, (color, shape) in zip(shown.series, styles, strict=True):
        yield from (_marker(across(x), up(y), color, shape) for x, y in series.points)
    yield "</g>"
    for place, (series, (color, shape)) in enumerate(zip(shown.series, styles, strict=True)):
        x, y = LEFT + (place % 3) * 150, bottom + 52 + (place // 3) * 17
        yield _marker(x, y - 4, color, shape)
        yield f'<text x="{x + 10}" y="{y}">{escape(series.name[:22])}</text>'


def _styles(series: Sequence[Series]) -> Iterator[tuple[str, str]]:
    """Colour by family, shape by the levels that have a curve of their own."""
    families = list(dict.fromkeys(each.family for each in series))
    levels = list(dict.fromkeys(each.levels for each in series))
    for each in series:
        color = COLORS[families.index(each.family) % len(COLORS)]
        yield color, SHAPES[levels.index(each.levels) % len(SHAPES)]


def _curve(series: Series, color: str, across: _Scale, up: _Scale) -> Iterator[str]:
    curve = series.curve
    if curve is None:
        return
    xs = numpy.geomspace(curve.low, curve.high, SAMPLES)
    middle, low, high = curve.band(xs)
    if numpy.isfinite(low).all() and numpy.isfinite(high).all():
        area = [*_path(xs, low, across, up), *list(_path(xs, high, across, up))[::-1]]
        yield f'<path d="M{"L".join(area)}Z" fill="{color}" fill-opacity="0.13"/>'
    line = "L".join(_path(xs, middle, across, up))
    yield f'<path d="M{line}" fill="none" stroke="{color}" stroke-width="2"/>'


def _path(xs: Iterable[float], ys: Iterable[float], across: _Scale, up: _Scale) -> Iterator[str]:
    """Points of a path; heights far outside the panel are cut, since some readers can't draw them."""
    for x, y in zip(xs, ys, strict=True):
        if up.logarithmic:
            y = min(max(y, up.low / 1e3), up.high * 1e3)
        height = min(max(up(y), -5.0 * HEIGHT), 5.0 * HEIGHT)
        yield f"{across(x):.1f} {height:.1f}"


def _crossings(shown: Shown, across: _Scale, bottom: float) -> Iterator[str]:
    """Crossings inside the panel: the interval as an area, the estimate as a line."""
    for first, second, found in shown.crossings:
        if found.x is None or not across.low <= found.x <= across.high:
            continue
        low, high = (max(found.low or 0, across.low), min(found.high or math.inf, across.high))
        start, end = across(low), across(high)
        label = escape(f"{first} and {second} cross at {found.x:.3g}")
        yield f'<g fill="#888" fill-opacity="0.1"><title>{label}</title>'
        yield f'<rect x="{start:.1f}" y="{TOP}" width="{end - start:.1f}" height="{bottom - TOP}"/></g>'
        x = across(found.x)
        line = f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}"'
        yield f'{line} stroke="#555" stroke-dasharray="4 3"/>'


def _marker(x: float, y: float, color: str, shape: str) -> str:
    style = f'fill="{color}" fill-opacity="0.75" stroke="#fff" stroke-width="0.7"'
    if shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" {style}/>'
    if shape == "square":
        return f'<rect x="{x - 3.6:.1f}" y="{y - 3.6:.1f}" width="7.2" height="7.2" {style}/>'
    corners: Sequence[tuple[float, float]] = ((0, -5), (5, 0), (0, 5), (-5, 0))  # a diamond
    if shape == "triangle":
        corners = ((0, -5), (4.6, 3.6), (-4.6, 3.6))
    return f'<path d="M{"L".join(f"{x + a:.1f} {y + b:.1f}" for a, b in corners)}Z" {style}/>'
