"""Measurements as a table: each beside its baseline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vtp_core.cli.output import table


def results_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Metric, value, baseline and protocol, one line each.

    Args:
        results: Metric -> entry of ``eval.json``.
    """
    rows: list[tuple[str, ...]] = [("metric", "value", "baseline", "protocol")]
    for metric, entry in results.items():
        numbers = (_number(entry.get("value")), _number(entry.get("baseline")))
        rows.append((metric, *numbers, str(entry.get("protocol", ""))))
    return table(rows)


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else "-"
