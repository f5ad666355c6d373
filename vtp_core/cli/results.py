"""Measurements as a table: each beside its baseline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vtp_core.cli.output import table


def results_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Metric, value, baseline and name of the protocol, one line each; ``eval.json`` has the whole protocols.

    Args:
        results: Metric -> entry of ``eval.json``.
    """
    rows: list[tuple[str, ...]] = [("metric", "value", "baseline", "protocol")]
    for metric, entry in results.items():
        unit = f" {entry['unit']}" if entry.get("unit") else ""
        baseline = _number(entry.get("baseline"))
        if entry.get("baseline_name") and baseline != "-":
            baseline = f"{baseline}{unit} ({entry['baseline_name']})"
        protocol = str(entry.get("protocol", "")).split(" ", 1)[0]
        rows.append((metric, f"{_number(entry.get('value'))}{unit}", baseline, protocol))
    return table(rows)


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else "-"
