"""The table of an evaluation's results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vtp_core.cli.output import table
from vtp_core.evaluation.protocol import shown, shown_beside

PARTIAL = "PARTIAL"
"""Word of a protocol whose numbers are of a part of a set."""


def results_text(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The table, and each protocol in full below it, as `vtp run` and `vtp eval` print them."""
    protocols = dict.fromkeys(str(entry["protocol"]) for entry in results.values())
    return "\n".join([results_table(results), *(f"protocol: {protocol}" for protocol in protocols)])


def results_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """One line for each metric: value, interval, strongest trivial answer and verdict; then the notes.

    Numbers of `also` that `Metric.beside` names have a column, if there are any.

    Args:
        results: What `vtp_core.evaluation.runner.evaluate` returned.
    """
    beside = {metric: shown_beside(entry) for metric, entry in results.items()}
    also = any(beside.values())
    heads = (
        "metric",
        "title",
        "value",
        "95 %",
        *(["also"] if also else []),
        "better",
        "baseline",
        "",
        "protocol",
    )
    rows: list[tuple[str, ...]] = [heads]
    for metric, entry in results.items():
        baseline = _number(entry["baseline"], entry)
        if entry["baseline_name"] and entry["baseline"] is not None:
            baseline = f"{baseline} ({entry['baseline_name']})"
        better = "higher" if entry["higher_is_better"] else "lower"
        protocol = str(entry["protocol"]).partition(";")[0].partition(" ")[0]
        if PARTIAL in str(entry["protocol"]):
            protocol = f"{protocol}, {PARTIAL}"
        bounds = entry["interval"]
        rows.append(
            (
                metric,
                str(entry["title"]),
                _number(entry["value"], entry),
                "-"
                if bounds is None
                else " to ".join(shown(bound, {**entry, "unit": ""}) for bound in bounds),
                *([beside[metric] or "-"] if also else []),
                better,
                baseline,
                str(entry["verdict"] or "-"),
                protocol,
            )
        )
    notes = [f"note: {entry['title']}: {note}" for entry in results.values() for note in entry["notes"]]
    return "\n".join([table(rows), *notes])


def _number(value: float | None, entry: Mapping[str, Any]) -> str:
    return "-" if value is None else shown(value, entry)
