"""Commands that take a run folder or an artefact."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.core.cli.small_tokenizer import finished, vtp
from vtp_core import load


@pytest.mark.parametrize("given", ["done", "done/tokenizer"])
def test_run_folder_or_artefact_for_encode_decode_export_and_report(
    home: Path, tmp_path: Path, given: str
) -> None:
    finished(home)
    latents, images = tmp_path / "a" / "l.safetensors", tmp_path / "images"
    encoded = vtp("encode", home / given, home / "photos", "-o", latents, "--json")
    assert encoded.exit_code == 0, encoded.output
    assert json.loads(encoded.stdout) == {"file": str(latents), "latents": [12, 6, 2, 2], "left_out": []}
    decoded = vtp("decode", home / given, latents, "-o", images, "--json")
    assert json.loads(decoded.stdout) == {"folder": str(images), "images": 12}
    assert len(list(images.iterdir())) == 12
    reported = vtp("report", home / given, "-o", tmp_path / "r.html", "--json")
    assert json.loads(reported.stdout) == {"report": str(tmp_path / "r.html")}
    copied = vtp("export", home / "done" / "tokenizer", tmp_path / "copy", "--json")
    assert json.loads(copied.stdout)["format"] == "artefact"
    assert load(home / given).config == load(tmp_path / "copy").config


def test_a_recipe_of_a_run_folder_is_validated_shown_and_checked(home: Path) -> None:
    finished(home)
    for command in (("validate",), ("show",), ("data", "check")):
        result = vtp(*command, home / "done")
        assert result.exit_code == 0, result.output
