"""`python -m benchmarks.study_objectives run | table | plot FILE | verdict`."""

from __future__ import annotations

from pathlib import Path

from benchmarks.study.command import Study, study_command
from benchmarks.study.table import Column
from benchmarks.study_objectives.arms import make_arms
from benchmarks.study_objectives.verdict import FEATURES, LATENTS, PSNR, ZERO_SHOT, write_verdict

STUDY = Study(
    name="study_objectives",
    arms=make_arms,
    columns=(
        Column("probe, latents", LATENTS),
        Column("probe, features", FEATURES),
        Column("zero-shot", ZERO_SHOT),
        Column("PSNR, dB", PSNR, 2),
    ),
    judge=write_verdict,
    folder=Path(__file__).parent,
)

main = study_command(STUDY)

if __name__ == "__main__":
    main(prog_name="python -m benchmarks.study_objectives")
