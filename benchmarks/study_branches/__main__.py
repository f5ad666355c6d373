"""`python -m benchmarks.study_branches run | table | plot FILE | verdict`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.study.arm import Run
from benchmarks.study.command import Study, study_command
from benchmarks.study.data import CIFAR10, SAMPLES
from benchmarks.study.runner import Bench
from benchmarks.study.table import Column
from benchmarks.study_branches.arms import make_arms
from benchmarks.study_branches.figure import draw
from benchmarks.study_branches.verdict import COLOUR, DEEP, PIXELS, PROBE, PSNR, TEXTURE, write_verdict


def shards(folder: Path | None) -> tuple[str, tuple[str, ...]]:
    """The data's name, and where the shards are; without a folder the package's drawings stand in."""
    return (SAMPLES, ()) if folder is None else (f"{CIFAR10}, {SAMPLES}", (f'folder="{folder}"',))


def make(runs: Sequence[Run], bench: Bench, budget: float | None) -> list[Run]:
    """Measures the missing cells."""
    from benchmarks.study.cells import make_cells
    from benchmarks.study_branches.cells import Cells

    return make_cells(runs, bench, budget, Cells(bench))


STUDY = Study(
    name="study_branches",
    arms=make_arms,
    columns=(
        Column("channels", "channels", 0),
        Column("codes in use", "use", 2),
        Column("PSNR, dB", PSNR, 2),
        Column("pixels, R2", PIXELS),
        Column("deep, R2", DEEP),
        Column("probe", PROBE),
        Column("colour shift", COLOUR, 2),
        Column("texture", TEXTURE),
    ),
    judge=write_verdict,
    folder=Path(__file__).parent,
    data=shards,
    make=make,
    draw=draw,
)

main = study_command(STUDY)

if __name__ == "__main__":
    main(prog_name="python -m benchmarks.study_branches")
