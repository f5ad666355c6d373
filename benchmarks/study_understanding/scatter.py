"""The plot: each number against the kernel distance of generated samples, a dot a tokenizer."""

from __future__ import annotations

from pathlib import Path

import click

from benchmarks.study.proxies import KERNEL
from benchmarks.study.results import Results
from benchmarks.study.table import Column
from benchmarks.study_understanding.arms import DISCRETE, FROZEN
from benchmarks.study_understanding.figures import FIGURES, arms_of, column
from benchmarks.study_understanding.verdict import correlation

COLUMNS = 4
KINDS = {"continuous": "tab:blue", "codebook": "tab:orange", "frozen encoder": "tab:green"}


def kind_of(arm: str) -> str:
    """What an arm's latents are, for the plot."""
    if arm in FROZEN:
        return "frozen encoder"
    return "codebook" if arm in DISCRETE else "continuous"


def draw(name: str, found: Results, columns: tuple[Column, ...], path: Path) -> None:
    """Draws to `path`; `columns` are the table's and not needed.

    Raises:
        ClickException: matplotlib is not installed, or there are no results.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise click.ClickException("plots need matplotlib: pip install 'vtp-core[bench]'") from None
    arms = arms_of(found)
    shown = [figure for figure in FIGURES if any(found.values(arm, figure.metric) for arm in arms)]
    if not shown:
        raise click.ClickException(f"nothing to draw. {found.account()}")
    rows = -(-len(shown) // COLUMNS)
    picture = Figure(figsize=(3.2 * COLUMNS, 2.7 * rows), layout="constrained")
    panels = picture.subplots(rows, COLUMNS, sharey=True, squeeze=False).flat
    for panel, figure in zip(panels, shown, strict=False):
        for kind, color in KINDS.items():
            some = [arm for arm in arms if kind_of(arm) == kind]
            panel.plot(
                column(found, some, figure.metric), column(found, some, KERNEL), "o",
                color=color, label=kind, markersize=4,
            )  # fmt: skip
        panel.set_xlabel(figure.title, fontsize=8)
        rho = correlation(found, figure.metric)
        panel.set_title(f"rho {rho}, {rho.arms} tokenizers" if rho else "too few tokenizers", fontsize=8)
    for panel in list(panels)[len(shown) :]:
        panel.set_axis_off()
    picture.axes[0].legend(fontsize=7)
    picture.supylabel("kernel distance of generated samples (less is better)", fontsize=9)
    title = f"{name}: {', '.join(found.data)}; Spearman's rho with its 95 % interval"
    picture.suptitle(title, fontsize=10)
    picture.savefig(path, dpi=150)
