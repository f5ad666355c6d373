"""Bars of a benchmark's results: one group a shape, one bar a variant."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vtp_core.errors import UsageError

SUFFIXES = (".png", ".svg", ".pdf")


def check(path: Path) -> None:
    """Checks that a picture can be drawn, before anything is timed.

    Raises:
        UsageError: The suffix is no format, or matplotlib is not installed.
    """
    if path.suffix not in SUFFIXES:
        raise UsageError(f"--plot {path}: use one of {', '.join(SUFFIXES)}")
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError("--plot needs matplotlib: pip install 'vtp-core[bench]'")


def draw(results: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Writes the bars: the fraction of the machine's peak if it is known, else rows a second.

    Args:
        results: Of `vtp_plugins.bench.report.result`, one a shape.
        path: Picture to write; its suffix names the format.
    """
    from matplotlib.figure import Figure

    by_peak = all(
        row.get("peak_fraction") is not None for found in results for row in found["variants"].values()
    )
    names = list(dict.fromkeys(name for found in results for name in found["variants"]))
    figure = Figure(figsize=(max(6.0, 1.8 * len(results)), 4.5), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(names)
    for column, name in enumerate(names):
        present = [
            (place, found["variants"][name])
            for place, found in enumerate(results)
            if name in found["variants"]
        ]
        places = [place + (column - (len(names) - 1) / 2) * width for place, _ in present]
        values = [row["peak_fraction"] * 100 if by_peak else row["rows_per_s"] for _, row in present]
        axes.bar(places, values, width, label=name)
    axes.set_xticks(range(len(results)), [found["shape"] or found["case"] for found in results])
    first = results[0]
    axes.set_ylabel(f"% of {first['peak']} peak" if by_peak else f"{first['unit']} per second")
    axes.set_title(f"{first['case']}, {first['threads']} thread(s), {first['machine']['processor']}")
    axes.legend(fontsize="small")
    figure.savefig(path)
