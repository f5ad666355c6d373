"""Charts: scales, ticks, data, numbers."""

from __future__ import annotations

import base64
import csv
import io
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtp_core.report.chart import BOTTOM, HEIGHT, LEFT, MAX_POINTS, RIGHT, TOP, WIDTH, line_chart, number


def coordinates(path: str) -> list[tuple[float, float]]:
    return [tuple(float(v) for v in pair.split()) for pair in re.split("[ML]", path) if pair]


FINITE = st.floats(-1e6, 1e6, allow_nan=False).map(lambda v: 0.0 if abs(v) < 1e-6 else v)


@given(st.lists(FINITE, min_size=1, max_size=30))
def test_points_lie_where_their_values_say(values: list[float]) -> None:
    chart = line_chart("t", {"a": list(enumerate(values))})
    assert chart is not None
    points = coordinates(chart.lines[0].path)
    for x, y in points:
        assert LEFT - 3 <= x <= WIDTH - RIGHT + 3 and TOP - 0.1 <= y <= HEIGHT - BOTTOM + 0.1
    if len(values) > 1:
        assert len(points) == len(values)
        for (_, y), (_, z), v, w in zip(points, points[1:], values, values[1:], strict=False):
            # Greater values lie higher (smaller y), to the rounding of the path.
            if v > w:
                assert y <= z + 0.11
    ticks = [tick.at for tick in chart.y_ticks]
    assert ticks == sorted(ticks, reverse=True) and len(ticks) >= 2


def test_linear_scale_is_exact() -> None:
    chart = line_chart("t", {"a": [(0, 0.0), (5, 5.0), (10, 10.0)]})
    assert chart is not None and not chart.logarithmic
    (x0, y0), (x1, y1), (x2, y2) = coordinates(chart.lines[0].path)
    assert (x0, y0) == (LEFT, HEIGHT - BOTTOM) and (x2, y2) == (WIDTH - RIGHT, TOP)
    assert x1 == pytest.approx((x0 + x2) / 2, abs=0.1) and y1 == pytest.approx((y0 + y2) / 2, abs=0.1)
    assert [tick.label for tick in chart.y_ticks] == ["0", "2", "4", "6", "8", "10"]


def test_logarithmic_scale_is_exact() -> None:
    chart = line_chart("t", {"a": [(0, 1.0), (1, 10.0), (2, 100.0)]})
    assert chart is not None and chart.logarithmic
    ys = [y for _, y in coordinates(chart.lines[0].path)]
    assert ys[0] - ys[1] == pytest.approx(ys[1] - ys[2], abs=0.2)
    assert [tick.label for tick in chart.y_ticks] == ["1", "10", "100"]
    linear = line_chart("t", {"a": [(0, 1.0), (1, 10.0), (2, 100.0)]}, axis="zero")
    assert linear is not None and not linear.logarithmic and linear.y_ticks[0].label == "0"


def test_values_that_are_not_finite_are_left_out() -> None:
    chart = line_chart("t", {"a": [(0, math.nan), (1, 2.0), (2, math.inf)], "b": [(0, math.nan)]})
    assert chart is not None and [line.name for line in chart.lines] == ["a"]
    assert line_chart("t", {"b": [(0, math.nan)], "c": []}) is None


def test_long_series_are_averaged_and_say_so() -> None:
    count = 10 * MAX_POINTS
    chart = line_chart("t", {"a": [(i, float(i % 2)) for i in range(count)]})
    assert chart is not None and chart.averaged == 10
    points = coordinates(chart.lines[0].path)
    assert len(points) == MAX_POINTS and len({y for _, y in points}) == 1
    # The data is what is drawn, so that the page stays small however long a run is.
    text = base64.b64decode(chart.csv.split(",")[1]).decode()
    rows = list(csv.reader(io.StringIO(text)))
    assert rows[0] == ["step", "a"] and len(rows) == MAX_POINTS + 1 and rows[1] == ["9", "0.5"]


def test_levels_lie_on_the_axis() -> None:
    chart = line_chart("t", {"a": [(0, 0.0), (10, 5.0)]}, levels={"chance": 10.0, "odd": math.nan})
    assert chart is not None
    (level,) = chart.levels
    assert (level.name, level.value, level.at) == ("chance", "10", TOP)
    assert chart.y_ticks[-1].label == "10"
    above_zero = line_chart("t", {"a": [(0, 1.0), (1, 100.0)]}, levels={"chance": 0.0})
    assert above_zero is not None and not above_zero.logarithmic


def test_many_series_stay_apart() -> None:
    chart = line_chart("t", {str(i): [(0, i), (1, i)] for i in range(10)})
    assert chart is not None
    looks = {(line.style, line.dashed) for line in chart.lines}
    assert len(looks) == 10


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.5, "0.5"), (1234567, "1.23e6"), (1e-5, "1e-5"), (100000.0, "100000"), (-3.14159, "-3.142")],
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text


@given(st.floats(-1e12, 1e12, allow_nan=False))
def test_numbers_are_near_their_value(value: float) -> None:
    assert float(number(value)) == pytest.approx(value, rel=6e-3, abs=1e-12)
