"""Measurements of a run by step: lines of ``metrics.jsonl`` and the curves they make. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vtp_core.evaluation.protocol import shown

PREFIX = "eval/"
"""Keys are ``eval/METRIC``, and ``eval/METRIC/low``, ``/high`` and ``/baseline`` where they are known."""
PARTS = ("low", "high", "baseline")

Points = tuple[tuple[int, float], ...]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A metric over training, by ascending step.

    Attributes:
        metric: Its key in ``eval.json``, which has title, unit, direction and baseline's name.
        value: (step, number).
        low: (step, lower bound of the interval), where known.
        high: (step, upper bound), where known.
        baseline: (step, strongest trivial answer), where known.
    """

    metric: str
    value: Points
    low: Points = field(default=())
    high: Points = field(default=())
    baseline: Points = field(default=())


def curves(rows: Sequence[Mapping[str, Any]]) -> list[Curve]:
    """The validation curves in the lines of ``metrics.jsonl``; of a step measured twice, the later values."""
    found: dict[str, dict[int, float]] = {}
    for row in rows:
        for key, value in row.items():
            if key.startswith(PREFIX) and _is_number(value) and _is_number(row.get("step")):
                found.setdefault(key.removeprefix(PREFIX), {})[int(row["step"])] = float(value)
    metrics = [name for name in found if name.rpartition("/")[2] not in PARTS]
    return [
        Curve(
            metric=name,
            value=_points(found[name]),
            **{p: _points(found.get(f"{name}/{p}", {})) for p in PARTS},
        )
        for name in metrics
    ]


def metrics_row(results: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """What a line of ``metrics.jsonl`` holds of an evaluation.

    Args:
        results: Metric -> entry of ``eval.json``.
    """
    row = {}
    for metric, entry in results.items():
        row[f"{PREFIX}{metric}"] = entry["value"]
        if entry["interval"] is not None:
            row[f"{PREFIX}{metric}/low"], row[f"{PREFIX}{metric}/high"] = entry["interval"]
        if entry["baseline"] is not None:
            row[f"{PREFIX}{metric}/baseline"] = entry["baseline"]
    return row


def summary(results: Mapping[str, Mapping[str, Any]]) -> str:
    """An evaluation on one line: each metric with its value, and its verdict unless it is "better"."""
    return ", ".join(
        f"{metric} {shown(entry['value'], entry)}"
        + (f" ({entry['verdict']})" if entry["verdict"] not in (None, "better") else "")
        for metric, entry in results.items()
    )


def find_metric(results: Mapping[str, Mapping[str, Any]], name: str) -> Mapping[str, Any] | None:
    """The entry of ``EVALUATOR.METRIC``; None if that evaluator gave no such number."""
    evaluator, _, metric = name.partition(".")
    for key, entry in results.items():
        # "<evaluator>." is before the second of two equal metrics, "@<protocol>" behind those of a named one.
        plain = key.removeprefix(f"{evaluator}.").partition("@")[0]
        if entry.get("evaluator") == evaluator and plain == metric:
            return entry
    return None


def _points(values: Mapping[int, float]) -> Points:
    return tuple(sorted(values.items()))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
