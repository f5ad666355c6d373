"""A study's results as a markdown table, and as a plot."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path

import click

from benchmarks.study.results import Results, spread


@dataclass(frozen=True)
class Column:
    """A metric in tables and plots.

    Attributes:
        title: Heading.
        metric: Its name in ``eval.json``.
        digits: Digits behind the point.
    """

    title: str
    metric: str
    digits: int = 3


def markdown(name: str, found: Results, columns: tuple[Column, ...]) -> str:
    """The table: one line an arm, mean (least to greatest) over seeds. A column nobody has is left out."""
    shown = [column for column in columns if any(found.values(arm.name, column.metric) for arm in found.arms)]
    titles = ["arm", "setting", "runs", *(column.title for column in shown), "TFLOP", "CPU min"]
    lines = [f"# {name}", "", found.account(), ""]
    if found.data:
        lines += [f"Data: {', '.join(found.data)}.", ""]
    lines += ["| " + " | ".join(titles) + " |", "| " + " | ".join(["---"] * len(titles)) + " |"]
    for column_names in _rows(found, shown):
        lines.append("| " + " | ".join(column_names) + " |")
    lines += ["", "Mean over seeds (least to greatest). TFLOP: the training alone, 1e12 operations."]
    return "\n".join(lines) + "\n"


def _rows(found: Results, shown: list[Column]) -> list[list[str]]:
    rows = []
    for arm in found.arms:
        records = found.records[arm.name]
        rows.append(
            [
                arm.name,
                arm.about,
                f"{len(records)}/{len(arm.seeds)}",
                *(spread(found.values(arm.name, column.metric), column.digits) for column in shown),
                f"{records[0]['flops'] / 1e12:.1f}" if records else "–",
                spread([record["cpu_seconds"] / 60 for record in records], 1),
            ]
        )
    trivial = [_baseline(found, column) for column in shown]
    if any(cell != "–" for cell in trivial):
        rows.append(["baseline", "", "", *trivial, "", ""])
    return rows


def _baseline(found: Results, column: Column) -> str:
    """What something trivial reaches: one value, or a range where each tokenizer has its own."""
    entry = found.baseline(column.metric)
    if entry is None:
        return "–"
    low, high = (f"{value:.{column.digits}f}" for value in (min(entry[1]), max(entry[1])))
    return f"{low if low == high else f'{low} to {high}'} ({entry[0]})"


def plot(name: str, found: Results, columns: tuple[Column, ...], path: Path) -> None:
    """Draws each column as bars of means with every run as a dot.

    Raises:
        ClickException: matplotlib is not installed, or there are no results.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise click.ClickException("plots need matplotlib: pip install 'vtp-core[bench]'") from None
    arms = [arm.name for arm in found.arms if found.records[arm.name]]
    if not arms:
        raise click.ClickException(f"nothing to draw. {found.account()}")
    shown = [column for column in columns if any(found.values(arm, column.metric) for arm in arms)]
    figure = Figure(figsize=(3.2 * len(shown), 0.3 * len(arms) + 1.6), layout="constrained")
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for panel, column in zip(panels, shown, strict=True):
        for place, arm in enumerate(arms):
            values = found.values(arm, column.metric)
            if values:
                panel.barh(place, statistics.fmean(values), color="lightsteelblue")
                panel.plot(values, [place] * len(values), ".", color="black")
        panel.set_title(column.title, fontsize=9)
        if entry := found.baseline(column.metric):
            for value in set(entry[1]):
                panel.axvline(value, color="firebrick", linestyle=":")
            panel.plot([], [], color="firebrick", linestyle=":", label=entry[0])
            panel.legend(fontsize=7, loc="lower right")
    panels[0].set_yticks(range(len(arms)), arms, fontsize=8)
    panels[0].invert_yaxis()
    figure.suptitle(f"{name}: {', '.join(found.data)}", fontsize=10)
    figure.savefig(path, dpi=150)
