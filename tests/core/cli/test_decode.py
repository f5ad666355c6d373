"""`vtp decode`: files of latents, hostile ones too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.core.cli.small_tokenizer import vtp


def test_encode_and_decode_refusals(home: Path, tmp_path: Path) -> None:
    art = home / "artefact"
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.png").write_bytes(b"no image")
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    out = tmp_path / "o.safetensors"
    for code, message, arguments in [
        (2, "give such a name", ("encode", art, home / "photos", "-o", tmp_path / "o.pt")),
        (3, "no such file", ("encode", art, tmp_path / "none", "-o", out)),
        (3, "no image with a suffix of", ("encode", art, tmp_path / "empty", "-o", out)),
        (3, "no image can be read, nothing is written", ("encode", art, tmp_path / "bad.png", "-o", out)),
        (3, "no such file", ("decode", art, tmp_path / "none", "-o", tmp_path / "d")),
        (3, "not a latents file", ("decode", art, tmp_path / "bad.png", "-o", tmp_path / "d")),
        (3, "holds no tensor", ("decode", art, tmp_path / "other.safetensors", "-o", tmp_path / "d")),
        (5, "no tokenizer here", ("encode", tmp_path, home / "photos", "-o", out)),
    ]:
        result = vtp(*arguments)
        assert result.exit_code == code and message in result.output, (arguments, result.output)
    assert not out.exists()


@pytest.mark.parametrize(
    ("message", "metadata"),
    [
        ("no list of names", {"images": '{"a": 1}'}),
        ("no list of names", {"images": "5"}),
        ("no list of names", {"images": '[["a"]]'}),
        ("not a latents file", {"images": "x"}),
        ("not a latents file", {"images": "[" * 100_000}),
        ("not a latents file", {"images": "[" + "9" * 5000 + "]"}),
        ("neither true nor false", {"normalized": "1"}),
        ("not a latents file", {"normalized": "[" * 100_000}),
    ],
)
def test_decode_refuses_hostile_metadata(
    home: Path, tmp_path: Path, message: str, metadata: dict[str, str]
) -> None:
    save_file({"latents": torch.zeros(1, 6, 2, 2)}, tmp_path / "a.safetensors", metadata)
    result = vtp("decode", home / "artefact", tmp_path / "a.safetensors", "-o", tmp_path / "d")
    assert result.exit_code == 3 and message in result.output, result.output
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("shape", [(0, 6, 2, 2), (1, 3)])
def test_decode_refuses_latents_of_wrong_shape(home: Path, tmp_path: Path, shape: tuple[int, ...]) -> None:
    save_file({"latents": torch.zeros(shape)}, tmp_path / "a.safetensors")
    result = vtp("decode", home / "artefact", tmp_path / "a.safetensors", "-o", tmp_path / "d")
    assert result.exit_code == 3 and "expected latents (n, d, h, w)" in result.output, result.output


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("../../up.png", "up"),
        ("/", "image"),
        ("a\0b.png", "a_b"),
        ("a\\b\n.png", "a_b_"),
        ("\udcff.png", "_"),
        ("é" * 5000, "é" * 100),
    ],
)
def test_decode_writes_any_name_into_its_folder(home: Path, tmp_path: Path, name: str, written: str) -> None:
    metadata = {"images": json.dumps([name])}
    save_file({"latents": torch.zeros(1, 6, 2, 2)}, tmp_path / "a.safetensors", metadata)
    result = vtp("decode", home / "artefact", tmp_path / "a.safetensors", "-o", tmp_path / "d")
    assert result.exit_code == 0, result.output
    assert [file.name for file in (tmp_path / "d").iterdir()] == [f"000000-{written}.png"]
