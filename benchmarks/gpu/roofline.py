"""How near a time comes to what the device allows. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vtp_plugins.bench.config import Precision
from vtp_plugins.bench.gpu_limits import Sheet, attention_limit, search_limit


def limit_share(facts: Mapping[str, Any], item: Mapping[str, Any], seconds: float) -> str:
    """The limit of a measured shape of `vtp kernels tune` over a time, in per cent; empty if not known.

    Args:
        facts: Of `benchmarks.gpu.facts`.
        item: A row of ``measured``, with its ``attributes`` and ``work``.
        seconds: The time.
    """
    work, attributes = item["work"], item["attributes"]
    if not facts or not work:
        return ""
    precision: Precision = "float32" if attributes["dtype"] == "float32" else "bfloat16"
    if facts["sheet"] is None:
        search = item["operator"] == "nearest_code"  # is screened in bfloat16
        rate = facts["measured"]["bfloat16" if search else precision]
        return _percent(work["flop"] / rate / seconds)
    sheet = Sheet(**facts["sheet"])
    if item["operator"] == "attention":
        limit = attention_limit(sheet, work["flop"], work["exponentials"], work["bytes"], precision)
    else:
        size = 4 if precision == "float32" else 2
        limit = search_limit(sheet, attributes["rows"], attributes["codes"], attributes["width"], size)
    return _percent(limit / seconds) if limit else ""


def flop_share(facts: Mapping[str, Any], flop: float, seconds: float) -> str:
    """Operations of a step in bfloat16 over what the device reaches in that time, on paper and measured."""
    if not facts:
        return "not known"
    measured = flop / seconds / facts["measured"]["bfloat16"]
    text = f"{_percent(measured)} of the rate measured for large products"
    if facts["sheet"] is not None:
        text += f", {_percent(flop / seconds / facts['sheet']['tensor'])} of the data sheet's"
    return text


def _percent(ratio: float) -> str:
    return f"{100 * ratio:.3g} %"
