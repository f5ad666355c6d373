"""From points to report, numbers and figure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from xml.etree import ElementTree

import pytest

from vtp_core.errors import UsageError
from vtp_plugins.scale.analysis import Point, analyse
from vtp_plugins.scale.config import Figure
from vtp_plugins.scale.figure import draw
from vtp_plugins.scale.text import markdown


def point(family: str, seed: int, flops: float, metrics: Mapping[str, float], size: str = "s") -> Point:
    return Point(
        name=f"{family}-{flops:g}-seed{seed}",
        chain=f"{family}-seed{seed}",
        family=family,
        levels={"size": size},
        seed=seed,
        cost={"flops": flops, "parameters": 10.0, "samples": flops / 1e3},
        metrics={
            name: {"value": value, "higher_is_better": name == "accuracy", "protocol": "p"}
            for name, value in metrics.items()
        },
    )


def points() -> list[Point]:
    """AE is better at 1e6 and worse at 1e8 FLOPs."""
    rows = {"AE & co": (60, 50, 40), "VTP": (90, 45, 20)}
    return [
        point(family, seed, flops, {"distance": value + seed, "accuracy": 0.2 + value / 1000})
        for family, values in rows.items()
        for seed in (0, 1, 2)
        for flops, value in zip((1e6, 1e7, 1e8), values, strict=True)
    ]


def test_less_is_better_gets_a_power_law_and_more_is_better_a_line() -> None:
    distance, accuracy = analyse(points(), Figure())
    assert (distance.model, accuracy.model) == ("power law", "log-linear")
    (first, second, found), *more = distance.crossings
    assert not more and (first, second) == ("AE & co", "VTP")
    assert found.x is not None and found.inside and 1e6 < found.x < 1e8
    ae, vtp = distance.series
    assert ae.curve is not None and vtp.curve is not None and not ae.curve.line.independent
    assert distance.between == (1e6, 1e8) and ae.gain is not None and vtp.gain is not None
    assert 0 < ae.gain.value < vtp.gain.value < 1
    forced = analyse(points(), Figure(metrics=("distance",), models={"distance": "log-linear"}))[0]
    assert forced.model == "log-linear"


def test_levels_may_have_curves_of_their_own() -> None:
    shown = analyse([*points(), *(point("AE & co", 3, 1e7 * k, {"distance": 1.0 * k}, "b") for k in (1, 2))],
                    Figure(metrics=("distance",), curves=("size",)))[0]  # fmt: skip
    assert [series.name for series in shown.series] == ["AE & co, s", "VTP, s", "AE & co, b"]
    assert [pair[:2] for pair in shown.crossings] == [("AE & co, s", "VTP, s")]
    assert any("two points" in note for note in shown.notes)


def test_what_limits_a_comparison_is_said() -> None:
    made = points()
    made[0].metrics["distance"]["protocol"] = "other"  # type: ignore[index]
    made[1].metrics.pop("accuracy")  # type: ignore[attr-defined]
    distance, accuracy = analyse(made, Figure())
    assert any("different protocols" in note for note in distance.notes)
    assert accuracy.notes == ("1 of 18 runs lack it",)
    with pytest.raises(UsageError, match='no run has distence; did you mean "distance"'):
        analyse(made, Figure(metrics=("distence",)))


def test_report_numbers_and_figure_are_whole() -> None:
    made = points()
    shown = analyse(made, Figure())
    text = markdown("grid", made, shown, "flops", ["x: failed with exit code 3: no data"])
    assert "18 of 19 runs are there" in text and "exit code 3" in text
    assert "inside the range that both were measured in" in text and "better (" in text
    json.dumps([each.data() for each in shown], allow_nan=False)
    root = ElementTree.fromstring(draw("<grid>", shown, "flops"))
    names = "".join(root.itertext())
    assert "AE & co" in names and "<grid>" in names and "cross at" in names
    circles = [node for node in root.iter() if node.tag.endswith("circle")]
    assert len(circles) == 2 * (18 + 2)  # points and legend of both panels


def test_nothing_yet_is_said_and_drawn() -> None:
    assert "0 of 1 runs are there" in markdown(
        "grid", [], analyse([], Figure(metrics=("psnr",))), "flops", ["a: missing"]
    )
    assert "nothing is measured yet" in draw("grid", [], "flops")
