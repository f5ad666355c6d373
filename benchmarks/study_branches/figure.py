"""The plot: how well a latent is decoded over how well it is understood. Imports matplotlib late."""

from __future__ import annotations

import statistics
from pathlib import Path

import click

from benchmarks.study.results import Results
from benchmarks.study.table import Column
from benchmarks.study_branches.arms import ENCODERS, KINDS, LEVELS, SETS, name_of

MARKERS = dict(zip(LEVELS, ("o", "s", "^"), strict=True))
COLORS = dict(
    zip(
        (*KINDS, "concat_two"),
        ("tab:blue", "tab:orange", "black", "tab:red", "tab:green", "tab:olive", "gray"),
        strict=True,
    )
)


def draw(name: str, found: Results, columns: tuple[Column, ...], path: Path) -> None:
    """Draws to `path`, for each encoder and set PSNR over the probe; `columns` are the table's.

    Raises:
        ClickException: matplotlib is not installed, or there are no results.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise click.ClickException("plots need matplotlib: pip install 'vtp-core[bench]'") from None
    if not any(found.records.values()):
        raise click.ClickException(f"nothing to draw. {found.account()}")
    figure = Figure(figsize=(4 * len(ENCODERS) * len(SETS), 3.8), layout="constrained")
    panels = figure.subplots(1, len(ENCODERS) * len(SETS))
    places = [(encoder, images) for encoder in ENCODERS for images in SETS]
    for panel, (encoder, images) in zip(panels, places, strict=True):
        for level in LEVELS:
            for kind, color in COLORS.items():
                arm = name_of(encoder, images, level, kind)
                if not found.records.get(arm):
                    continue
                x, y = (statistics.fmean(found.values(arm, metric)) for metric in ("probe", "psnr"))
                panel.plot(x, y, MARKERS[level], color=color)
        panel.set(title=f"{encoder}, {images}", xlabel="linear probe", ylabel="PSNR, dB")
    for kind, color in COLORS.items():
        panels[0].plot([], [], "o", color=color, label=kind)
    for level, (title, _) in LEVELS.items():
        panels[0].plot([], [], MARKERS[level], color="white", markeredgecolor="black", label=title)
    panels[0].legend(fontsize=6)
    figure.suptitle(f"{name}: {', '.join(found.data)}", fontsize=10)
    figure.savefig(path, dpi=150)
