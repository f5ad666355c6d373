"""From the records to the curves of `vtp scale`. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from benchmarks.study.results import Results
from benchmarks.study.table import Column
from benchmarks.study_scaling.arms import FAMILIES
from vtp_core.atomic import write_text
from vtp_plugins.scale.analysis import Point, Shown, analyse
from vtp_plugins.scale.config import Figure
from vtp_plugins.scale.figure import draw

METRICS = ("linear_probe", "psnr", "probe_gen_kernel", "probe_gen_frechet")
"""Latent probe, PSNR, and the distances of the proxy's samples."""
TITLES: Mapping[str, str] = {
    "linear_probe": "Linear probe of the latents",
    "psnr": "PSNR",
    "probe_gen_kernel": "Kernel distance of a proxy's samples",
    "probe_gen_frechet": "Fréchet distance of a proxy's samples",
}


def points_of(found: Results, axis: str) -> list[Point]:
    """The runs whose axis is this one: `size`, `images` or `decoder`."""
    return [
        _point(record) for records in found.records.values() for record in records if axis in record["levels"]
    ]


def _point(record: Mapping[str, Any]) -> Point:
    cost = {
        "flops": record["forward_flops"],
        "parameters": record["tokenizer_parameters"],
        "samples": record["samples"],
    }
    return Point(
        name=record["run"],
        chain=record["chain"],
        family=FAMILIES[record["family"]],
        levels=record["levels"],
        seed=record["seed"],
        cost=cost,
        metrics={
            name: {**entry, "title": TITLES.get(name, name)}
            for name, entry in record["metrics"].items()
            if "higher_is_better" in entry
        },
    )


def curves(found: Results, sizes: bool = False) -> list[Shown]:
    """The main grid's curves; with `sizes` one for each size of a family."""
    points = points_of(found, "size")
    known = {name for point in points for name in point.metrics}
    figure = Figure(
        metrics=tuple(name for name in METRICS if name in known), curves=("size",) if sizes else ()
    )
    return analyse(points, figure) if figure.metrics else []


def plot(name: str, found: Results, columns: Sequence[Column], path: Path) -> None:
    """Draws the curves.

    Raises:
        ClickException: There are no results, or the file is no SVG.
    """
    if path.suffix != ".svg":
        raise click.ClickException(f"{path}: the figure is an SVG; name FILE.svg")
    shown = curves(found)
    if not shown:
        raise click.ClickException(f"nothing to draw. {found.account()}")
    write_text(path, draw(f"{name}: {', '.join(found.data)}", shown, "flops"))
