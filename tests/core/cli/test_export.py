"""`vtp export`: student and teacher of a run."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from tests.core.cli.small_tokenizer import vtp
from vtp_core import load
from vtp_core.training.saving.checkpoint import save as save_checkpoint


def test_export_of_student_and_teacher(home: Path, tmp_path: Path) -> None:
    for weights in ("student", "teacher"):
        result = vtp("export", home / "run", tmp_path / weights, "--weights", weights, "--limit", 7)
        assert result.exit_code == 0, result.output
        assert f"{weights} of step-00000003" in result.output
    assert "tokenizer.decoder has no teacher" in result.output
    source = load(home / "artefact")
    student, teacher = load(tmp_path / "student"), load(tmp_path / "teacher")
    for name, value in source.encoder.state_dict().items():
        assert torch.equal(student.encoder.state_dict()[name], value)
        assert torch.equal(teacher.encoder.state_dict()[name], value + 1)
    for name, value in source.decoder.state_dict().items():
        assert torch.equal(teacher.decoder.state_dict()[name], value)
    config = json.loads((tmp_path / "teacher" / "config.json").read_text())
    assert config["weights"] == "teacher" and config["step"] == 3
    assert "PARTIAL 7 of 12" in config["latents_stats_protocol"]


def run_of(home: Path, folder: Path, twins: tuple[str, ...]) -> Path:
    """A run folder whose checkpoint has teachers, a third off, of those parts alone."""
    folder.mkdir()
    (folder / "resolved.toml").write_text((home / "run" / "resolved.toml").read_text())
    model, state = load(home / "artefact"), {}
    for part in ("encoder", "bottleneck", "decoder"):
        for name, value in getattr(model, part).state_dict().items():
            state[f"tokenizer.{part}.{name}"] = value
            if part in twins:
                state[f"ema.tokenizer.{part}.{name}"] = value + 1 / 3
    save_checkpoint(folder / "checkpoints", 3, state, recipe={})
    return folder


def test_the_moving_average_of_a_second_stage_is_exported(home: Path, tmp_path: Path) -> None:
    """There the decoder alone has one: the encoder rests."""
    run = run_of(home, tmp_path / "run", ("decoder",))
    result = vtp("export", run, tmp_path / "out", "--weights", "teacher", "--no-statistics")
    assert result.exit_code == 0, result.output
    assert "tokenizer.encoder has no teacher" in result.output
    source, found = load(home / "artefact"), load(tmp_path / "out")
    for name, value in source.decoder.state_dict().items():
        assert torch.equal(found.decoder.state_dict()[name], value + 1 / 3)
    for name, value in source.encoder.state_dict().items():
        assert torch.equal(found.encoder.state_dict()[name], value)


def test_a_run_without_any_teacher_has_none_to_export(home: Path, tmp_path: Path) -> None:
    run = run_of(home, tmp_path / "run", ())
    result = vtp("export", run, tmp_path / "out", "--weights", "teacher")
    assert result.exit_code == 2 and "no part of the tokenizer has a teacher" in result.output
    assert not (tmp_path / "out").exists()


def test_export_refusals(home: Path, tmp_path: Path) -> None:
    result = vtp("export", tmp_path, tmp_path / "x")
    assert result.exit_code == 5 and "no tokenizer here (no files); give the folder of a run" in result.output
    (tmp_path / "resolved.toml").write_text((home / "run" / "resolved.toml").read_text())
    result = vtp("export", tmp_path, tmp_path / "x")
    assert result.exit_code == 5 and "no usable checkpoint" in result.output
