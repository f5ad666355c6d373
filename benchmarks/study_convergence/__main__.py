"""`python -m benchmarks.study_convergence run | table | plot FILE | verdict`."""

from __future__ import annotations

from pathlib import Path

from benchmarks.study.command import Study, study_command
from benchmarks.study.proxies import FRECHET, KERNEL
from benchmarks.study.table import Column
from benchmarks.study_convergence.arms import make_arms
from benchmarks.study_convergence.figure import draw
from benchmarks.study_convergence.making import make
from benchmarks.study_convergence.speed import findings
from benchmarks.study_convergence.verdict import write_verdict

FOLDER = Path(__file__).parent

STUDY = Study(
    name="study_convergence",
    arms=make_arms,
    columns=(
        Column("kernel distance", KERNEL, 4),
        Column("Fréchet distance", FRECHET, 1),
        Column("of reconstructions", "reconstruction_kernel", 4),
        Column("probe, latents", "linear_probe"),
        Column("PSNR, dB", "psnr", 2),
    ),
    judge=write_verdict,
    folder=FOLDER,
    plugins=(FOLDER / "enlarged.py",),
    make=make,
    draw=draw,
    findings=findings,
)

main = study_command(STUDY)

if __name__ == "__main__":
    main(prog_name="python -m benchmarks.study_convergence")
