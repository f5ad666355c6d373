"""`vtp eval --leaderboard`: several tokenizers in one table."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.core.cli.small_tokenizer import vtp


def test_a_leaderboard_is_a_table_json_and_a_page(home: Path, photos: str, tmp_path: Path) -> None:
    out, page = tmp_path / "board.json", tmp_path / "board.html"
    more = ("--source", photos, "--evaluator", "reconstruction", "-o", out, "--html", page)
    result = vtp("eval", home / "artefact", home / "run" / "checkpoints" / "step-00000003", *more)
    assert result.exit_code == 0, result.output
    assert "images a second, encode" in result.stdout and "PSNR, dB" in result.stdout
    first, second = json.loads(out.read_text())["tokenizers"]
    alone = tmp_path / "alone.json"
    assert (
        vtp(
            "eval", home / "artefact", "--source", photos, "--evaluator", "reconstruction", "-o", alone
        ).exit_code
        == 0
    )
    assert first["results"] == json.loads(alone.read_text())
    assert first["cost"]["encoder_parameters"] == second["cost"]["encoder_parameters"] > 0
    assert "<table" in page.read_text()


def test_a_leaderboard_goes_on_behind_a_tokenizer_that_fails(home: Path, photos: str, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(home / "artefact", broken)
    (broken / "model.safetensors").write_bytes(b"nothing")
    out = tmp_path / "board.json"
    options = ("--source", photos, "--evaluator", "reconstruction", "--leaderboard", "-o", out)
    result = vtp("eval", broken, home / "artefact", *options)
    assert result.exit_code == 5, result.output
    assert f"{broken}: left out:" in result.stderr
    left, whole = json.loads(out.read_text())["tokenizers"]
    assert (left["name"], whole["name"]) == (str(broken), str(home / "artefact"))
    assert not left["results"] and "differs from its hash" in left["left_out"]["tokenizer"]
    assert whole["results"] and whole["cost"]["encode_flops"] > 10_000


def test_flops_of_a_leaderboard_are_those_of_unprepared_layers(
    home: Path, photos: str, tmp_path: Path
) -> None:
    found = []
    for name in ("--fast", "--exact"):
        out = tmp_path / f"{name}.json"
        options = ("--source", photos, "--evaluator", "reconstruction", "--leaderboard", name, "-o", out)
        assert vtp("eval", "vtp-nano", *options).exit_code == 0
        (row,) = json.loads(out.read_text())["tokenizers"]
        found.append(row["cost"]["encode_flops"])
    assert found[0] == found[1] > 250e6


def test_several_tokenizers_need_the_leaderboard(home: Path) -> None:
    result = vtp("eval", home / "artefact", home / "run")
    assert result.exit_code == 2 and "--leaderboard" in result.stderr
