"""docs/first_tokenizer.md is what happens: its commands are run, and its output compared."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from safetensors import safe_open

from tests.plugins.init.photographs import BROKEN, make_photographs
from vtp_core.cli.main import main
from vtp_plugins.init.machine import Machine

PAGE = (Path(__file__).parents[3] / "docs/first_tokenizer.md").read_text(encoding="utf-8")
NUMBER = re.compile(r"\d+(\.\d+)?(e[-+]\d+)?")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)


def transcript() -> Iterator[tuple[str, list[str]]]:
    """Each command of the page with the lines that it prints; `...` stands for more of them."""
    for block in blocks("console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, *lines = part.rstrip("\n").split("\n")
            yield command, [line for line in lines if line.strip() not in ("", "...")]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    make_photographs(tmp_path / "photos")
    return tmp_path


def test_the_page_shows_five_commands() -> None:
    assert [command.split()[:2] for command, _ in transcript()] == [
        ["vtp", word] for word in ("init", "run", "report", "encode", "decode")
    ]


def test_what_init_finds_and_writes(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(cores=2, gpu_gib=0.0, bfloat16=True, perceptual=True)
    monkeypatch.setattr(Machine, "this", classmethod(lambda cls: machine))
    command, lines = next(transcript())
    result = CliRunner().invoke(main, command.split()[1:])
    assert result.exit_code == 0, result.output
    said = [_plain(line, True) for line in result.stdout.split("\n") if line.strip()]
    assert said == [_plain(line, True) for line in lines]
    (recipe,) = blocks("toml")
    assert (here / "photos.toml").read_text(encoding="utf-8") == recipe


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_the_transcript(here: Path) -> None:
    """Numbers of the run depend on the machine, everything else does not."""
    for command, expected in transcript():
        words = command.split()
        done = subprocess.run(
            [sys.executable, "-m", "vtp_core", *words[1:]],
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == (3 if words[1] == "encode" else 0), done.stdout
        measured = words[1] == "run" or words[1] == "init"
        said = iter([_plain(line, measured) for line in done.stdout.split("\n")])
        for line in expected:
            if "CPU cores" not in line:
                assert _plain(line, measured) in said, (
                    f"{line!r} is not in the output of {command}: {done.stdout}"
                )
    _check_results(here)


def _plain(line: str, measured: bool) -> str:
    """A line without the widths of columns, and without numbers where they are measured."""
    return " ".join((NUMBER.sub("#", line) if measured else line).split())


def _check_results(here: Path) -> None:
    scores = json.loads((here / "runs/photos/eval.json").read_text())
    assert scores["psnr"]["value"] > scores["psnr"]["baseline"] + 2, "better than a mean colour"
    assert (here / "runs/photos/report.html").stat().st_size > 50_000
    with safe_open(here / "latents.safetensors", "pt") as file:
        names = [name for of in json.loads(file.metadata()["images"]).values() for name in of]
        assert sum(len(file.get_tensor(name)) for name in file.keys()) == len(names) == 197
    assert {Path(name).name for name in names}.isdisjoint(BROKEN)
    assert len(list((here / "decoded").iterdir())) == 197
