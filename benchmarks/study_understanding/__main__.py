"""`python -m benchmarks.study_understanding run | table | plot FILE | verdict`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.study.arm import Run
from benchmarks.study.command import Study, study_command
from benchmarks.study.proxies import FRECHET, KERNEL
from benchmarks.study.runner import Bench
from benchmarks.study.table import Column
from benchmarks.study_understanding.arms import make_arms
from benchmarks.study_understanding.figures import LATENTS, PSNR
from benchmarks.study_understanding.scatter import draw
from benchmarks.study_understanding.verdict import findings, write_verdict


def make(runs: Sequence[Run], bench: Bench, budget: float | None) -> list[Run]:
    """Trains what is missing: tokenizers, each with its proxy, then further proxies."""
    from benchmarks.study_understanding import proxies

    return proxies.make(runs, bench, budget)


STUDY = Study(
    name="study_understanding",
    arms=make_arms,
    columns=(
        Column("kernel distance", KERNEL, 4),
        Column("Fréchet distance", FRECHET, 1),
        Column("of reconstructions", "reconstruction_kernel", 4),
        Column("probe, latents", LATENTS),
        Column("PSNR, dB", PSNR, 2),
        Column("variance, tokens, t = 0.5", "token_variance_t0.5"),
        Column("variance, latents, t = 0.1", "latent_variance_t0.1"),
        Column("slope", "spectrum_slope", 2),
    ),
    judge=write_verdict,
    folder=Path(__file__).parent,
    make=make,
    draw=draw,
    findings=findings,
)

main = study_command(STUDY)

if __name__ == "__main__":
    main(prog_name="python -m benchmarks.study_understanding")
