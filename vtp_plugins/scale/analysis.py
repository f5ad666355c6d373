"""What a grid's runs show: points, a curve for each family and metric, crossings, gains. Imports no torch."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vtp_core.errors import UsageError
from vtp_core.recipe.problems import did_you_mean
from vtp_core.run.records import RunFolder
from vtp_plugins.scale.config import Figure, Model
from vtp_plugins.scale.fit import (
    Crossing,
    Curve,
    Gain,
    crossing,
    fit_curve,
    gain,
    lack_of_fit,
    shared_range,
)

SIGNIFICANT = 0.05
"""Greatest p at which a curve is said not to fit."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """A finished run.

    Attributes:
        name: The run's.
        chain: The run that its training began with: points of one chain share their noise.
        family: Title of its family.
        levels: Axis -> level.
        seed: Its seed.
        cost: `flops`, `parameters` and `samples`.
        metrics: Metric -> its entry of ``eval.json``.
    """

    name: str
    chain: str
    family: str
    levels: Mapping[str, str]
    seed: int
    cost: Mapping[str, float]
    metrics: Mapping[str, Mapping[str, Any]]

    def place(self, x: str) -> float:
        """Where it stands on a horizontal axis."""
        return float(self.cost[x] if x in self.cost else self.levels[x])


@dataclass(frozen=True, kw_only=True)
class Series:
    """The points of one curve of one metric, and the curve.

    Attributes:
        name: Title of the family, and levels with a curve of their own.
        family: Title of the family.
        levels: The levels that have a curve of their own.
        points: (place, value) of each run.
        curve: The fit; None if all points are at one place.
        gain: Over `Shown.between`; None without a curve.
    """

    name: str
    family: str
    levels: tuple[str, ...]
    points: tuple[tuple[float, float], ...]
    curve: Curve | None
    gain: Gain | None


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One metric.

    Attributes:
        metric: Its name in ``eval.json``.
        title: Its name for readers.
        unit: Its unit, or empty.
        higher_is_better: Its direction.
        model: What is fitted.
        series: One a curve.
        crossings: Of each two families at equal levels: their curves' names and where they cross.
        between: The places between which gains are.
        notes: What limits the comparison.
    """

    metric: str
    title: str
    unit: str
    higher_is_better: bool
    model: Model
    series: tuple[Series, ...]
    crossings: tuple[tuple[str, str, Crossing], ...]
    between: tuple[float, float] | None
    notes: tuple[str, ...]

    def data(self) -> dict[str, Any]:
        """As JSON data; null where there is no number."""
        return {
            "title": self.title,
            "unit": self.unit,
            "higher_is_better": self.higher_is_better,
            "model": self.model,
            "curves": [_curve_data(each) for each in self.series],
            "crossings": [
                {"first": first, "second": second, **asdict(found)} for first, second, found in self.crossings
            ],
            "between": self.between,
            "notes": list(self.notes),
        }


def read_metrics(folder: Path) -> dict[str, dict[str, Any]]:
    """The metrics of a run's ``eval.json`` that are finite numbers with a direction; none without a file."""
    path = RunFolder(folder).evaluation
    try:
        entries = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: can't be read ({error}); write it again with vtp eval {folder}") from None
    found = {}
    for name, entry in entries.items() if isinstance(entries, dict) else ():
        value = entry.get("value") if isinstance(entry, dict) else None
        if isinstance(value, int | float) and math.isfinite(value) and "higher_is_better" in entry:
            found[name] = entry
    return found


def analyse(points: Sequence[Point], figure: Figure) -> list[Shown]:
    """Everything that is drawn and said.

    Args:
        points: Finished runs.
        figure: What is asked for.

    Raises:
        UsageError: No run has a metric that is asked for.
    """
    known = list(dict.fromkeys(name for point in points for name in point.metrics))
    for name in figure.metrics:
        if points and name not in known:
            raise UsageError(f"figure.metrics: no run has {name}; {did_you_mean(name, known)}")
    shown = [_shown(name, points, figure) for name in figure.metrics or known if name in known]
    titles = [each.title for each in shown]
    return [
        each if titles.count(each.title) == 1 else replace(each, title=f"{each.title} ({each.metric})")
        for each in shown
    ]


def _shown(metric: str, points: Sequence[Point], figure: Figure) -> Shown:
    having = [point for point in points if metric in point.metrics]
    entries = [point.metrics[metric] for point in having]
    higher = bool(entries[0]["higher_is_better"])
    values = [float(entry["value"]) for entry in entries]
    model = figure.models.get(metric, "log-linear" if higher or min(values) <= 0 else "power law")
    notes = []
    if model == "power law" and min(values) <= 0:
        model = "log-linear"
        notes.append("some values are not positive, so that no power law can be fitted")
    if len({str(entry.get("protocol", "")) for entry in entries}) > 1:
        notes.append("its points have different protocols: compare them with care (scaling.json has all)")
    if len(having) < len(points):
        notes.append(f"{len(points) - len(having)} of {len(points)} runs lack it")
    groups: dict[tuple[str, tuple[str, ...]], list[Point]] = {}
    for point in having:
        levels = tuple(point.levels[axis] for axis in figure.curves)
        groups.setdefault((point.family, levels), []).append(point)
    curves = {key: _fit(metric, group, figure.x, model) for key, group in groups.items()}
    fitted = [curve for curve in curves.values() if curve is not None]
    between = figure.between or (shared_range(fitted) if fitted else None)
    if fitted and any(curve.line.independent for curve in fitted):
        notes.append("fewer than three training runs on a curve: its points count as independent")
    if fitted and any(curve.line.points < 3 for curve in fitted):
        notes.append("a curve through two points has no interval")
    series = tuple(
        Series(
            name=", ".join((family, *levels)),
            family=family,
            levels=levels,
            points=tuple(
                (point.place(figure.x), float(point.metrics[metric]["value"]))
                for point in groups[family, levels]
            ),
            curve=curve,
            gain=None if curve is None or between is None else gain(curve, *between, higher_is_better=higher),
        )
        for (family, levels), curve in curves.items()
    )
    notes += _misfits(series)
    return Shown(
        metric=metric,
        title=str(entries[0].get("title") or metric),
        unit=str(entries[0].get("unit") or ""),
        higher_is_better=higher,
        model=model,
        series=series,
        crossings=tuple(_crossings(series, higher)),
        between=between,
        notes=tuple(notes),
    )


def _fit(metric: str, points: Sequence[Point], x: str, model: Model) -> Curve | None:
    values = [float(point.metrics[metric]["value"]) for point in points]
    return fit_curve([point.place(x) for point in points], values, [point.chain for point in points], model)


def _misfits(series: Sequence[Series]) -> Iterable[str]:
    """A note on the curves that their points don't follow."""
    found = {
        each.name: p
        for each in series
        if each.curve is not None and (p := lack_of_fit(each.curve, each.points)) is not None
    }
    if bent := [f"{name} (p = {p:.2g})" for name, p in found.items() if p < SIGNIFICANT]:
        yield (
            f"lack of fit of {', '.join(bent)}: the points are off the curve by more than runs at one place "
            "differ; slopes, gains and crossings are those of a model that doesn't hold"
        )


def _crossings(series: Sequence[Series], higher: bool) -> Iterable[tuple[str, str, Crossing]]:
    for first, second in itertools.combinations(series, 2):
        if first.levels == second.levels and first.curve is not None and second.curve is not None:
            yield first.name, second.name, crossing(first.curve, second.curve, higher_is_better=higher)


def _curve_data(series: Series) -> dict[str, Any]:
    data: dict[str, Any] = {"name": series.name, "points": [list(point) for point in series.points]}
    if (curve := series.curve) is None:
        return {**data, "fit": None}
    intercept, slope = (float(value) for value in curve.line.coefficients)
    _, low, high = curve.slope()
    return {
        **data,
        "fit": {
            "intercept": intercept,
            "slope": slope,
            "slope_interval": [finite(low), finite(high)],
            "residual": finite(curve.line.residual),
            "points": curve.line.points,
            "runs": curve.line.runs,
            "independent_points": curve.line.independent,
            "range": [curve.low, curve.high],
        },
        "gain": None
        if series.gain is None
        else {name: finite(value) for name, value in asdict(series.gain).items()},
    }


def finite(value: float) -> float | None:
    """None for NaN and infinities, which JSON lacks."""
    return value if math.isfinite(value) else None
