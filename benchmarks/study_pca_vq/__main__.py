"""`python -m benchmarks.study_pca_vq run | table | plot FILE | verdict`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.study.arm import Run
from benchmarks.study.command import Study, study_command
from benchmarks.study.data import SAMPLES
from benchmarks.study.runner import Bench
from benchmarks.study.table import Column
from benchmarks.study_pca_vq.arms import make_arms
from benchmarks.study_pca_vq.figure import draw
from benchmarks.study_pca_vq.verdict import ERROR, PERPLEXITY, PROBE, PSNR, TRAINED, USE, write_verdict


def shards(folder: Path | None) -> tuple[str, tuple[str, ...]]:
    """The data's name, and where the shards of both sets are; without a folder the package's drawings."""
    return (SAMPLES, ()) if folder is None else ("cifar10, openclipart64", (f'folder="{folder}"',))


def make(runs: Sequence[Run], bench: Bench, budget: float | None) -> list[Run]:
    """Measures the missing cells."""
    from benchmarks.study.cells import make_cells
    from benchmarks.study_pca_vq.cells import Cells

    return make_cells(runs, bench, budget, Cells(bench))


STUDY = Study(
    name="study_pca_vq",
    arms=make_arms,
    columns=(
        Column("use", USE),
        Column("perplexity", PERPLEXITY, 0),
        Column("d_eff", "d_eff", 1),
        Column("sqrt(2 / d_eff)", "spread", 2),
        Column("spread", "measured_spread", 2),
        Column("error", ERROR),
        Column("error, top axes", "error_top"),
        Column("PSNR, dB", PSNR, 2),
        Column("PSNR, trained, dB", TRAINED, 2),
        Column("probe", PROBE),
        Column("forecast use", "forecast_use"),
    ),
    judge=write_verdict,
    folder=Path(__file__).parent,
    data=shards,
    make=make,
    draw=draw,
)

main = study_command(STUDY)

if __name__ == "__main__":
    main(prog_name="python -m benchmarks.study_pca_vq")
