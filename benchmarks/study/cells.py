"""Cells: runs of a study that train no network. One after the other in one process, a record each."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click
import torch

from benchmarks.study.arm import Run
from benchmarks.study.record import write_record
from benchmarks.study.runner import Bench, is_done
from vtp_core.errors import CheckpointError

Measure = Callable[[Run], Mapping[str, Any]]
"""What a cell's record has beside its settings: at least `metrics` and `flops`."""


def make_cells(runs: Sequence[Run], bench: Bench, budget: float | None, measure: Measure) -> list[Run]:
    """Measures the runs that have no record yet; the same contract as `benchmarks.study.runner.make_runs`.

    A cell takes seconds to minutes, so the one at the end of the budget is finished. A cell whose features
    can't be had here, such as those of a run that was not made, is named and left.
    """
    if bench.jobs != 1:
        raise click.ClickException("--jobs: cells share their features in memory; one at a time")
    torch.set_num_threads(bench.threads)
    bench.results.mkdir(parents=True, exist_ok=True)
    waiting = [run for run in runs if not is_done(run, bench)]
    end = time.monotonic() + budget if budget is not None else float("inf")
    for run in waiting:
        if time.monotonic() >= end:
            break
        began = time.process_time()
        try:
            found = measure(run)
        except CheckpointError as error:
            click.echo(f"{run.name}: left out; {error}")
            continue
        seconds = time.process_time() - began
        write_record({**_settings(run, bench, seconds), **found}, bench.result(run))
        click.echo(f"{run.name}: done, {seconds:.0f} s of CPU time")
    return [run for run in waiting if not bench.result(run).exists()]


def _settings(run: Run, bench: Bench, seconds: float) -> dict[str, Any]:
    return {
        "study": bench.study,
        "run": run.name,
        "arm": run.arm.name,
        "seed": run.seed,
        "recipe": run.arm.recipe.name,
        "overrides": list(run.overrides),
        "settings": run.digest(),
        "data": bench.data,
        "cpu_seconds": round(seconds, 1),
        "torch": torch.__version__,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "training": {},
    }
