"""Curves, crossings and gains against closed forms and simulations of a known truth."""

from __future__ import annotations

import numpy
import pytest
from scipy import stats

from vtp_plugins.scale.config import Model
from vtp_plugins.scale.fit import Crossing, Curve, crossing, fit_curve, gain, lack_of_fit, shared_range
from vtp_plugins.scale.text import describe_crossing

X = numpy.array([1e3, 1e4, 1e5, 1e6])


def curve(x: numpy.ndarray, y: numpy.ndarray, model: Model = "log-linear", runs: str = "") -> Curve:
    found = fit_curve(x, y, runs or ["a"] * len(x), model)
    assert found is not None
    return found


def test_a_power_law_is_found_again() -> None:
    found = curve(X, 7 * X**-0.25, "power law")
    assert found.line.coefficients == pytest.approx([numpy.log10(7), -0.25])
    middle, low, high = found.band([1e2, 1e7])
    assert middle == pytest.approx(7 * numpy.array([1e2, 1e7]) ** -0.25)
    assert low == pytest.approx(middle) and high == pytest.approx(middle)


def test_a_band_is_that_of_a_regression_over_the_logarithm() -> None:
    y = numpy.array([1.0, 2.2, 2.9, 4.3])
    theirs = stats.linregress(numpy.log10(X), y)
    middle, low, high = curve(X, y).band([1e4])
    assert middle[0] == pytest.approx(theirs.intercept + 4 * theirs.slope)
    error = numpy.sqrt(
        numpy.sum((y - theirs.intercept - theirs.slope * numpy.log10(X)) ** 2) / 2
        * (1 / 4 + (4 - 4.5) ** 2 / 5)
    )  # fmt: skip
    assert (
        high[0] - middle[0]
        == pytest.approx(stats.t.ppf(0.975, 2) * error)
        == pytest.approx(middle[0] - low[0])
    )


@pytest.mark.parametrize(("x", "y"), [([0.0, 1.0], [1.0, 1.0]), ([1.0, 2.0], [1.0, -1.0])])
def test_what_has_no_logarithm_is_refused(x: list[float], y: list[float]) -> None:
    with pytest.raises(ValueError, match="positive"):
        fit_curve(x, y, ["a", "a"], "power law")


def test_gains_are_relative_and_positive_for_an_improvement() -> None:
    distance = curve(X, 8 * X**-0.5, "power law")
    found = gain(distance, 1e3, 1e5, higher_is_better=False)
    assert (found.value, found.low, found.high) == pytest.approx((0.9, 0.9, 0.9))
    accuracy = curve(X, numpy.log10(X))
    assert gain(accuracy, 1e3, 1e6, higher_is_better=True).value == pytest.approx(1.0)
    assert gain(accuracy, 1e3, 1e6, higher_is_better=False).value == pytest.approx(-1.0)


def test_the_interval_of_a_gain_is_that_of_the_delta_method() -> None:
    """Its gradient by differences: of (a + b x2) / (a + b x1) - 1."""
    generator = numpy.random.default_rng(0)
    found = curve(X, 5 + numpy.log10(X) + 0.1 * generator.normal(size=4))
    covariance = found.line.shares.T @ found.line.shares

    def change(ab: numpy.ndarray) -> float:
        return float((ab[0] + ab[1] * 6) / (ab[0] + ab[1] * 3) - 1)

    at = found.line.coefficients
    gradient = [(change(at + step) - change(at - step)) / 2e-6 for step in 1e-6 * numpy.eye(2)]
    margin = stats.t.ppf(0.975, 2) * numpy.sqrt(gradient @ covariance @ gradient)
    result = gain(found, 1e3, 1e6, higher_is_better=True)
    assert result.value == pytest.approx(change(at))
    assert result.high - result.value == pytest.approx(margin, rel=1e-5)


def noisy(slope: float, offset: float, seed: int) -> Curve:
    generator = numpy.random.default_rng(seed)
    x = numpy.tile(X, 4)
    y = offset + slope * (numpy.log10(x) - 5) + 0.1 * generator.normal(size=len(x))
    return curve(x, y, runs="aaaabbbbccccdddd")


def test_the_ends_of_a_crossings_interval_are_where_the_difference_is_as_large_as_its_margin() -> None:
    first, second = noisy(2, 0, 0), noisy(1, 0, 1)
    found = crossing(first, second, higher_is_better=True)
    assert found.x is not None and found.low is not None and found.high is not None
    assert found.low < found.x < found.high and found.inside
    assert (found.ends, found.ahead) == ((-1, 1), 0)
    assert crossing(first, second, higher_is_better=False).ends == (1, -1)
    for x in (found.low, found.high):
        difference = first.line.at(numpy.log10(x)).minus(second.line.at(numpy.log10(x)))
        assert abs(difference.value[0]) == pytest.approx(difference.margin()[0], rel=1e-6)


def test_curves_that_are_apart_say_who_is_ahead_and_have_no_bounded_interval() -> None:
    first, second = noisy(1, 3, 0), noisy(1, 0, 1)
    found = crossing(first, second, higher_is_better=True)
    assert (found.ends, found.ahead) == ((1, 1), 1)
    assert crossing(first, second, higher_is_better=False).ahead == -1
    assert not found.inside and (found.low is None or found.high is None)
    exact = curve(X, numpy.log10(X))
    assert crossing(exact, curve(X, numpy.log10(X) + 1), higher_is_better=True) == Crossing(
        x=None, low=None, high=None, known=False, inside=False, ends=(-1, -1), ahead=-1
    )


def test_curves_through_two_points_cross_without_an_interval() -> None:
    first, second = curve(X[:2], numpy.array([0.0, 1.0])), curve(X[:2], numpy.array([1.0, 0.0]))
    found = crossing(first, second, higher_is_better=True)
    assert found.x == pytest.approx(10**3.5) and found.inside
    assert found.low is None and found.high is None and (found.ends, found.ahead) == ((0, 0), 0)
    assert not found.known and "; no interval" in describe_crossing("a", "b", found)
    assert shared_range([first, curve(X[2:], X[2:])]) is None


@pytest.mark.parametrize("model", ["log-linear", "power law"])
def test_a_curve_that_bends_does_not_fit(model: Model) -> None:
    """Against the difference of squares of a line and of a mean a place, by least squares."""
    noise = numpy.random.default_rng(0).normal(size=8)
    x, p = numpy.repeat(X, 2), {}
    for bend in (0.0, 0.3):
        line = numpy.log10(x) + bend * numpy.log10(x) ** 2 + 0.1 * noise
        y = 10**line if model == "power law" else line
        columns = numpy.stack([numpy.ones(8), numpy.log10(x)], 1), (x[:, None] == X).astype(float)
        squares = [numpy.linalg.lstsq(each, line)[1][0] for each in columns]
        expected = stats.f.sf((squares[0] - squares[1]) / 2 / (squares[1] / 4), 2, 4)
        found = lack_of_fit(curve(x, y, model), [*zip(x, y, strict=True)])
        assert found == pytest.approx(expected, rel=1e-6)
        p[bend] = found
    assert p[0.3] < 0.01 < 0.05 < p[0.0]
    assert lack_of_fit(curve(X, X), [*zip(X, X, strict=True)]) is None


def test_intervals_cover_a_known_crossing_and_slope_as_often_as_they_say() -> None:
    """Two sizes, two seeds, three budgets from one run each: noise of the run and noise of the point."""
    generator = numpy.random.default_rng(1)
    x = numpy.concatenate([size * X[:3] for size in (1, 3) for _ in range(2)])
    runs = [run for run in range(4) for _ in range(3)]
    crossed, sloped, count = 0, 0, 120
    for _ in range(count):
        curves = []
        for slope in (1.0, 2.0):
            noise = 0.2 * generator.normal(size=4)[runs] + 0.05 * generator.normal(size=12)
            made = fit_curve(x, slope * (numpy.log10(x) - 5) + noise, runs, "log-linear")
            assert made is not None
            curves.append(made)
        found = crossing(curves[0], curves[1], higher_is_better=True)
        crossed += (found.low or 0) <= 1e5 <= (found.high or numpy.inf)
        for each, truth in zip(curves, (1.0, 2.0), strict=True):
            _, low, high = each.slope()
            sloped += low <= truth <= high
    assert 0.9 <= crossed / count <= 0.99 and 0.9 <= sloped / (2 * count) <= 0.99
