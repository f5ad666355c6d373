"""`python -m benchmarks.study_gan_stage run | table | plot FILE | verdict`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.study.command import Study, study_command
from benchmarks.study.table import Column
from benchmarks.study_gan_stage import verdict
from benchmarks.study_gan_stage.arms import make_arms
from benchmarks.study_gan_stage.critic import critic_course
from benchmarks.study_gan_stage.gradients import gradient_norms
from vtp_core.run.records import RunFolder

FOLDER = Path(__file__).parent


def measure_course(folder: Path) -> dict[str, Any]:
    """Gradient norms and the critic's course as metrics; of the second stage, if there are two."""
    steps = RunFolder(folder).read_steps()
    norms = {
        name: {"value": value, "higher_is_better": False} for name, value in gradient_norms(steps).items()
    }
    return {**norms, **{name: {"value": value} for name, value in critic_course(steps).items()}}


STUDY = Study(
    name="study_gan_stage",
    arms=make_arms,
    columns=(
        Column("gradient, median", verdict.MEDIAN, 2),
        Column("gradient, p99", verdict.HIGH, 2),
        Column("PSNR, dB", verdict.PSNR, 2),
        Column("perceptual, EfficientNet", verdict.PERCEPTUAL[0]),
        Column("perceptual, SqueezeNet", verdict.PERCEPTUAL[1]),
        Column("Fréchet, EfficientNet", verdict.FRECHET[0], 1),
        Column("Fréchet, SqueezeNet", verdict.FRECHET[1], 1),
    ),
    judge=verdict.write_verdict,
    folder=FOLDER,
    plugins=(FOLDER / "quality.py",),
    measure=measure_course,
)

main = study_command(STUDY)

if __name__ == "__main__":
    main(prog_name="python -m benchmarks.study_gan_stage")
