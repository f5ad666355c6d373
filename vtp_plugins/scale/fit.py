"""Curves of a metric over a horizontal axis: log-linear or a power law, crossings, gains.

Both models are straight lines over ``log10(x)``: ``metric = a + b log10(x)``, and ``log10(metric) = a + b
log10(x)``, which is ``metric = A x^b``. Intervals are 95 % ones for the mean over seeds of training.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy
from numpy.typing import ArrayLike

from vtp_plugins.scale.config import Model
from vtp_plugins.scale.line import Array, Estimate, Line, fit_line

FAR = 8.0
"""Decades beyond the measured range up to which the ends of a crossing's interval are looked for."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A fitted curve.

    Attributes:
        model: What is fitted.
        line: The straight line over ``log10(x)``.
        low: Least x that was measured.
        high: Greatest.
    """

    model: Model
    line: Line
    low: float
    high: float

    def band(self, x: ArrayLike) -> tuple[Array, Array, Array]:
        """Curve, lower and upper bound at places (m,) each."""
        found = self.line.at(numpy.log10(x))
        margin = found.margin()
        rows = found.value, found.value - margin, found.value + margin
        return tuple(10**row for row in rows) if self.model == "power law" else rows  # type: ignore[return-value]

    def slope(self) -> tuple[float, float, float]:
        """Slope per decade (the exponent of a power law) with its interval; NaN where there is none."""
        found = self.line.slope()
        value, margin = float(found.value[0]), float(found.margin()[0])
        return value, value - margin, value + margin


@dataclass(frozen=True, kw_only=True)
class Crossing:
    """Where two curves cross.

    Attributes:
        x: Estimate; None if the curves are parallel.
        low: Lower end of the interval; None: it is not bounded there.
        high: Upper end.
        known: Whether there is an interval; curves through two points have none.
        inside: Whether the estimate lies in the range that both curves were measured in.
        ends: Which curve is better at the lower and at the upper end of that range, beyond noise: 1 for the
            first, -1 for the second, 0 for none.
        ahead: The same for the whole range: that of both ends if they agree, else 0.
    """

    x: float | None
    low: float | None
    high: float | None
    known: bool
    inside: bool
    ends: tuple[int, int]
    ahead: int


@dataclass(frozen=True, kw_only=True)
class Gain:
    """The relative change of a curve between two places; positive is an improvement.

    Attributes:
        value: The change over the value at the first place.
        low: Lower end of the interval; NaN without one.
        high: Upper end.
    """

    value: float
    low: float
    high: float


def fit_curve(x: ArrayLike, y: ArrayLike, runs: Sequence[Hashable], model: Model) -> Curve | None:
    """Fits points; None if all are at one place.

    Args:
        x: (n,) positive places.
        y: (n,) values; positive for a power law.
        runs: (n,) the training run of each point.
        model: What is fitted.

    Raises:
        ValueError: A place or a value of a power law is not positive.
    """
    places, values = numpy.asarray(x, numpy.float64), numpy.asarray(y, numpy.float64)
    if not (places > 0).all():
        raise ValueError("places of a logarithmic axis are positive")
    if model == "power law" and not (values > 0).all():
        raise ValueError("a power law needs positive values")
    line = fit_line(numpy.log10(places), numpy.log10(values) if model == "power law" else values, runs)
    if line is None:
        return None
    return Curve(model=model, line=line, low=float(places.min()), high=float(places.max()))


def shared_range(curves: Sequence[Curve]) -> tuple[float, float] | None:
    """Where all curves were measured; None if there is no such range."""
    low, high = max(curve.low for curve in curves), min(curve.high for curve in curves)
    return (low, high) if low < high else None


def crossing(first: Curve, second: Curve, *, higher_is_better: bool) -> Crossing:
    """Where two curves of one model cross.

    The interval holds the places at which the curves' difference may be zero (Fieller 1954), so it is
    unbounded where the slopes don't differ significantly.
    """
    shared = shared_range([first, second])
    ends = (0, 0)
    if shared is not None:
        apart = first.line.at(numpy.log10(shared)).minus(second.line.at(numpy.log10(shared)))
        sure = numpy.sign(apart.value) * (numpy.abs(apart.value) > apart.margin())
        low, high = (int(sign) * (1 if higher_is_better else -1) for sign in sure)
        ends = low, high
    ahead = ends[0] if ends[0] == ends[1] else 0
    offset, slope = first.line.coefficients - second.line.coefficients
    if slope == 0:
        return Crossing(x=None, low=None, high=None, known=False, inside=False, ends=ends, ahead=ahead)
    place = float(-offset / slope)
    known = not bool(numpy.isnan(_excess(first, second, place)).any())
    least, most = _not_told_apart(first, second, place) if known else (None, None)
    x = _power(place)
    return Crossing(
        x=x,
        low=None if least is None else _power(least),
        high=None if most is None else _power(most),
        known=known,
        inside=x is not None and shared is not None and shared[0] <= x <= shared[1],
        ends=ends,
        ahead=ahead,
    )


def gain(curve: Curve, start: float, end: float, *, higher_is_better: bool) -> Gain:
    """The relative change from `start` to `end`, by the delta method where the model is log-linear."""
    first, last = numpy.log10([start, end])
    sign = 1.0 if higher_is_better else -1.0
    slope, low, high = curve.slope()
    if curve.model == "power law":
        ends = [sign * (10 ** (value * (last - first)) - 1) for value in (slope, low, high)]
        return Gain(value=ends[0], low=min(ends[1:]), high=max(ends[1:]))
    a, b = curve.line.coefficients
    at_start = a + b * first
    value = b * (last - first) / at_start
    gradient = numpy.array([[-value / at_start, (last - first - value * first) / at_start]])
    margin = float(curve.line.combine(gradient).margin()[0])
    value *= sign * numpy.sign(at_start)
    return Gain(value=float(value), low=float(value - margin), high=float(value + margin))


def lack_of_fit(curve: Curve, points: Sequence[tuple[float, float]]) -> float | None:
    """The p value of a curve against the scatter of values at one place; None without such.

    The F test of lack of fit (Draper and Smith 1998, section 2.1); it takes points as independent.

    Args:
        curve: The fit.
        points: (place, value) of what was fitted.
    """
    from scipy.stats import f

    x, values = numpy.array(points, numpy.float64).T
    y = numpy.log10(values) if curve.model == "power law" else values
    places, where = numpy.unique(x, return_inverse=True)
    means = numpy.bincount(where, y) / numpy.bincount(where)
    free, pure = len(places) - 2, len(y) - len(places)
    error = float(((y - means[where]) ** 2).sum())
    if free < 1 or pure < 1 or error == 0:
        return None
    off = float(((means - curve.line.at(numpy.log10(places)).value)[where] ** 2).sum())
    return float(f.sf((off / free) / (error / pure), free, pure))


def _excess(first: Curve, second: Curve, x: ArrayLike) -> Array:
    """By how much two curves differ beyond noise at places; NaN if that is unknown."""
    found: Estimate = first.line.at(x).minus(second.line.at(x))
    return numpy.abs(found.value) - found.margin()


def _not_told_apart(first: Curve, second: Curve, place: float) -> tuple[float | None, float | None]:
    """Ends of the interval around `place`, in decades; None where there is none."""
    from scipy.optimize import brentq

    least = min(place, numpy.log10(min(first.low, second.low))) - FAR
    most = max(place, numpy.log10(max(first.high, second.high))) + FAR
    step = (numpy.log10(max(first.high, second.high)) - numpy.log10(min(first.low, second.low))) / 200

    def end(bound: float) -> float | None:
        places = place + numpy.sign(bound - place) * _steps(abs(bound - place), step)
        outside = numpy.flatnonzero(_excess(first, second, places) > 0)
        if not len(outside):
            return None
        index = int(outside[0])
        if index == 0:
            return place
        single: Callable[[float], float] = lambda x: float(_excess(first, second, x)[0])  # noqa: E731
        return float(brentq(single, places[index - 1], places[index]))

    return end(least), end(most)


def _steps(length: float, first: float) -> Array:
    """Distances from 0 to `length`: even ones, then growing ones."""
    even = numpy.arange(0, min(length, 400 * first), first)
    far = numpy.geomspace(max(even[-1], first), length, 200)
    return numpy.unique(numpy.concatenate([even, far]))


def _power(place: float) -> float | None:
    """10 to a power that floats can hold."""
    return 10.0**place if abs(place) < 300 else None
