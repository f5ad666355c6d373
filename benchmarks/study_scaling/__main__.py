"""`python -m benchmarks.study_scaling plan | run | table | plot FILE.svg | verdict`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from benchmarks.study.arm import Arm, Run
from benchmarks.study.command import Study, study_command
from benchmarks.study.data import data_overrides
from benchmarks.study.runner import Bench
from benchmarks.study.table import Column
from benchmarks.study_scaling.arms import make_arms
from benchmarks.study_scaling.curves import plot
from benchmarks.study_scaling.verdict import write_verdict


def data(folder: Path | None) -> tuple[str, tuple[str, ...]]:
    """As all studies; probes are fitted on the whole training set, also where a part of it was trained on."""
    name, overrides = data_overrides(folder)
    whole = '{ use = "samples", split = "train", caption = "title_and_class" }'
    for override in overrides:
        key, _, value = override.partition("=")
        whole = value if key == "data.source" else whole
    return name, (*overrides, f"evaluate.train_source={whole}")


def make(runs: Sequence[Run], bench: Bench, budget: float | None) -> list[Run]:
    """Trains what is missing: tokenizers, each with its proxy."""
    from benchmarks.study_scaling import making

    return making.make(runs, bench, budget)


STUDY = Study(
    name="study_scaling",
    arms=make_arms,
    columns=(
        Column("probe, latents", "linear_probe"),
        Column("probe, features", "features.linear_probe"),
        Column("PSNR, dB", "psnr", 2),
        Column("kernel distance", "probe_gen_kernel", 4),
        Column("Fréchet distance", "probe_gen_frechet", 1),
        Column("of reconstructions", "reconstruction_kernel", 4),
    ),
    judge=write_verdict,
    folder=Path(__file__).parent,
    data=data,
    make=make,
    draw=plot,
)

main = study_command(STUDY)


@main.command()
@click.pass_obj
def plan(arms_and_results: tuple[Sequence[Arm], Any]) -> None:
    """Print the runs with their forward FLOPs, and the hours that the whole study takes."""
    from benchmarks.study_scaling.planning import plan_text

    click.echo(plan_text())


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.study_scaling")
