"""From the folders of a grid's runs to report, numbers and figure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from vtp_core.atomic import write_json, write_text
from vtp_plugins.scale.analysis import Point, analyse, read_metrics
from vtp_plugins.scale.config import Grid
from vtp_plugins.scale.figure import draw
from vtp_plugins.scale.runner import Bench, read_record, state_of
from vtp_plugins.scale.runs import Run
from vtp_plugins.scale.text import markdown


def read_points(grid: Grid, chains: Sequence[Sequence[Run]], bench: Bench) -> tuple[list[Point], list[str]]:
    """The finished runs, and one line for each of the others."""
    points, left = [], []
    for chain in chains:
        for run in chain:
            folder = bench.folder(run)
            record, state = read_record(folder), state_of(run, folder)
            if state != "done":
                reason = (
                    f" with exit code {record['exit_code']}: {record['message']}" if state == "failed" else ""
                )
                left.append(f"{run.name}: {state}{reason}")
                continue
            points.append(
                Point(
                    name=run.name,
                    chain=chain[0].name if run.parent else run.name,
                    family=grid.families[run.family].title or run.family,
                    levels=run.levels,
                    seed=run.seed,
                    cost={key: record[key] for key in ("flops", "parameters", "samples")},
                    metrics=read_metrics(folder),
                )
            )
    return points, left


def report(
    grid: Grid, chains: Sequence[Sequence[Run]], bench: Bench, plot: Path | None, *, as_json: bool
) -> None:
    """Writes report, numbers and figure; prints the report, or the numbers."""
    points, left = read_points(grid, chains, bench)
    shown = analyse(points, grid.figure)
    data: dict[str, Any] = {
        "grid": grid.name,
        "x": grid.figure.x,
        "points": [
            {
                "run": point.name, "chain": point.chain, "family": point.family, "levels": dict(point.levels),
                "seed": point.seed, **point.cost, "metrics": dict(point.metrics),
            }
            for point in points
        ],
        "metrics": {each.metric: each.data() for each in shown},
        "left": left,
    }  # fmt: skip
    text = markdown(grid.name, points, shown, grid.figure.x, left)
    figure = draw(grid.name, shown, grid.figure.x)
    bench.out.mkdir(parents=True, exist_ok=True)
    write_json(bench.out / "scaling.json", data)
    write_text(bench.out / "scaling.md", text)
    for path in (bench.out / "scaling.svg", *([plot] if plot is not None else [])):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, figure)
    click.echo(json.dumps(data, indent=2) if as_json else f"{text}\nfigure  {bench.out / 'scaling.svg'}")
