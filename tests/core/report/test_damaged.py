"""The page of a damaged run folder: it shows what can be read and names what can't."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.core.report.test_page import append, edit, read
from tests.core.run.tiny_run import FAULTY
from vtp_core.plugins import load_plugins
from vtp_core.run.report import build_report

pytestmark = pytest.mark.slow

DEEP = b"[" * 100_000
OBJECTS = ("eval.json", "environment.json", "samples/samples.json", "tokenizer/config.json")


@pytest.fixture
def few(run: Path) -> Path:
    """The run with two images, for speed."""
    record = json.loads((run / "samples/samples.json").read_text())
    few = {"images": record["images"][:2], "queries": [], "neighbours": [], "interpolations": []}
    edit(run / "samples/samples.json", **few)
    return run


@pytest.mark.parametrize("name", OBJECTS)
@pytest.mark.parametrize(
    "data", [b"", DEEP, b'{"a":' * 50_000, b"\xff\xfe", b"[1]", b'{"a": 1' + b"0" * 5000]
)
def test_a_damaged_file_is_named(few: Path, name: str, data: bytes) -> None:
    (few / name).write_bytes(data)
    text = read(build_report(few)).text
    assert "Reproduce" in text and any(f"{name} {what}" in text for what in ("can't be read", "holds no"))


@pytest.mark.parametrize("name", ["metrics.jsonl", "quarantine-0.jsonl"])
def test_damaged_lines_are_counted(few: Path, name: str) -> None:
    with (few / name).open("ab") as file:
        file.write(DEEP + b"\n" + b"\xff\n[1]\n{")
    assert f"{name}: 4 lines can't be read" in read(build_report(few)).text


@pytest.mark.parametrize("kind", ["pipe", "folder", "loop"])
@pytest.mark.parametrize("name", [*OBJECTS, "metrics.jsonl", "quarantine-0.jsonl", "samples/00000-input.png"])
def test_what_is_no_file_is_not_opened(few: Path, name: str, kind: str) -> None:
    path = few / name
    path.unlink()
    {"pipe": os.mkfifo, "folder": Path.mkdir, "loop": lambda path: path.symlink_to(path)}[kind](path)
    assert "Reproduce" in read(build_report(few)).text


@pytest.mark.parametrize("name", ["resolved.toml", *OBJECTS, "metrics.jsonl", "quarantine-0.jsonl"])
def test_a_file_that_can_not_be_opened_is_named(
    few: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = few / name

    def refuse(method):  # root may open everything: the refusal is made here
        def called(path, *args, **kwargs):
            if path == closed:
                raise PermissionError(13, "Permission denied", str(path))
            return method(path, *args, **kwargs)

        return called

    for method in ("open", "read_text", "read_bytes"):
        monkeypatch.setattr(Path, method, refuse(getattr(Path, method)))
    assert f"{name} can't be read: [Errno 13] Permission denied" in read(build_report(few)).text


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n\x1a\n", b"<html>", b"\x89PNG\r\n\x1a\n" + b"\0" * 60])
def test_images_that_can_not_be_read_are_counted(few: Path, data: bytes) -> None:
    (few / "samples/00000-input.png").write_bytes(data)
    record = json.loads((few / "samples/samples.json").read_text())
    record["images"][1].update(input="x\0y", output="a" * 5000)
    edit(few / "samples/samples.json", images=record["images"])
    assert "samples: 3 images can't be read" in read(build_report(few)).text


def test_lone_surrogates_are_shown_as_escapes(few: Path) -> None:
    half, name = "half an emoji \ud83d", os.fsdecode(b"caf\xe9.png")
    record = json.loads((few / "samples/samples.json").read_text())
    record["images"][0].update(caption=half, key=name)
    edit(few / "samples/samples.json", images=record["images"], held_out=name)
    entry = json.loads((few / "eval.json").read_text())["psnr"]
    edit(few / "eval.json", **{name: {**entry, "protocol": half, "unit": half}})
    edit(few / "environment.json", device=half)
    append(few / "metrics.jsonl", *({"step": step, f"loss/{half}/x": 2.0} for step in (13, 14)))
    append(few / "quarantine-0.jsonl", {"source": "default", "index": 900, "reason": half})
    text = read(build_report(few)).text
    assert text.count("half an emoji \\ud83d") >= 5 and "caf\\udce9.png" in text


def test_images_that_can_not_be_made_are_named(few: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = few / "tokenizer/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    plugins = load_plugins(files=(FAULTY,))
    text = read(build_report(few, plugins=plugins)).text
    assert "the reconstructions could not be made" in text and "differs from its hash in SHA256SUMS" in text

    def fail(*args, **kwargs):
        raise RuntimeError("a decoder of a plugin")

    monkeypatch.setattr("vtp_core.artefact.loading.load", fail)
    text = read(build_report(few, plugins=plugins)).text
    assert "the reconstructions could not be made: RuntimeError: a decoder of a plugin" in text
