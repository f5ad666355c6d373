"""The plot: PSNR over perplexity of the cells, and the probe over dimensions."""

from __future__ import annotations

import statistics
from pathlib import Path

import click

from benchmarks.study.results import Results
from benchmarks.study.table import Column
from benchmarks.study_pca_vq.arms import BASES, MAIN, STARTS, name_of

COLORS = dict(zip(MAIN, ("black", "tab:orange", "tab:blue"), strict=True))
DIMENSIONS = (8, 32, 64)


def draw(name: str, found: Results, columns: tuple[Column, ...], path: Path) -> None:
    """Draws to `path`; `columns` are the table's and not needed.

    Raises:
        ClickException: matplotlib is not installed, or there are no results.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise click.ClickException("plots need matplotlib: pip install 'vtp-core[bench]'") from None
    sets = [each for each in ("cifar", "clipart", "own") if found.records[f"{each}.dino_dec"]]
    if not sets:
        raise click.ClickException(f"nothing to draw. {found.account()}")
    figure = Figure(figsize=(4.2 * (len(sets) + 1), 3.8), layout="constrained")
    panels = figure.subplots(1, len(sets) + 1)
    for panel, features in zip(panels, sets, strict=False):
        for metric in MAIN:
            for start in STARTS:
                for revive in (False, True):
                    arm = name_of(features, metric, start, revive=revive)
                    if arm not in found.records:
                        continue
                    panel.plot(
                        found.values(arm, "perplexity"),
                        found.values(arm, "psnr"),
                        "o" if start == "kmeans" else "s",
                        color=COLORS[metric],
                        fillstyle="full" if revive else "none",
                        label=f"{metric.replace('_', ' ')}, {start}{', revival' if revive else ''}",
                    )
        panel.set(title=features, xlabel="perplexity", ylabel="PSNR, dB")
    panels[0].legend(fontsize=6)
    widths = panels[-1]
    for base in BASES:
        arms = {width: f"{name_of('cifar', base)}.dims_{width}" for width in DIMENSIONS} | {
            112: name_of("cifar", base)
        }
        shown = {width: found.values(arm, "probe") for width, arm in arms.items()}
        points = [(width, statistics.fmean(values)) for width, values in shown.items() if values]
        if points:
            widths.plot(*zip(*points, strict=True), "o-", color=COLORS[base], label=base.replace("_", " "))
    widths.set(
        title="cifar, k-means++, revival", xlabel="dimensions of features and codes", ylabel="linear probe"
    )
    widths.legend(fontsize=7)
    figure.suptitle(f"{name}: {', '.join(found.data)}", fontsize=10)
    figure.savefig(path, dpi=150)
