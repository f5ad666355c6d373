"""The plot: kernel distance of a proxy's samples by its training steps, a line a tokenizer and seed."""

from __future__ import annotations

from pathlib import Path

import click

from benchmarks.study.results import Results
from benchmarks.study.table import Column
from benchmarks.study_convergence.speed import curves

COLORS = ("tab:blue", "tab:orange", "tab:green")


def draw(name: str, found: Results, columns: tuple[Column, ...], path: Path) -> None:
    """Draws to `path`; `columns` are the table's and not needed.

    Raises:
        ClickException: matplotlib is not installed, or there are no curves.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise click.ClickException("plots need matplotlib: pip install 'vtp-core[bench]'") from None
    by_seed = curves(found)
    if not by_seed:
        raise click.ClickException(f"nothing to draw. {found.account()}")
    picture = Figure(figsize=(6, 4), layout="constrained")
    axes = picture.subplots()
    for number, by_arm in enumerate(by_seed.values()):
        for arm, color in zip(found.arms, COLORS, strict=True):
            points = by_arm[arm.name]
            axes.plot(
                [point.step for point in points], [point.kernel for point in points], "o-",
                color=color, label=None if number else arm.about, markersize=4,
            )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    ticks = [point.step for point in points]
    axes.set_xticks(ticks, [str(step) for step in ticks])
    axes.set_xlabel("training steps of the generator")
    axes.set_ylabel("kernel distance of samples (less is better)")
    axes.set_title(f"{name}: {', '.join(found.data)}; a line a seed", fontsize=10)
    axes.legend()
    picture.savefig(path, dpi=150)
