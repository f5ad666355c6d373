"""Text that is not UTF-8, in captions and names of files, from the data to every file that a run writes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.core.data.making import encoded, noise, write_tar
from tests.core.run.tiny_run import RECIPE, vtp
from vtp_core.artefact.weights import read_weights, write_weights
from vtp_core.cli.main import main
from vtp_core.data.source import BadSample, Sample
from vtp_core.errors import UsageError

LATIN = os.fsdecode(b"caf\xe9")
SHOWN = "caf\\udce9"


def test_samples_hold_text_that_can_be_written() -> None:
    sample = Sample(key=LATIN, text="half an emoji \ud83d")
    assert (sample.key, sample.text) == (SHOWN, "half an emoji ?")
    whole = Sample(key="café", text="whole \U0001f600")
    assert (whole.key, whole.text) == ("café", "whole \U0001f600")
    bad = BadSample(LATIN, "unreadable", f"no file {LATIN}")
    assert str(bad) == f"{SHOWN}: unreadable (no file {SHOWN})"


@pytest.fixture
def latin(tmp_path: Path) -> Path:
    """A folder of classes and images, some with names in Latin-1, one of them damaged."""
    for name in ("oak", LATIN):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(6):
            (tmp_path / "images" / name / f"{LATIN}{number}.png").write_bytes(encoded(noise(seed=number)))
    (tmp_path / "images" / "oak" / f"{LATIN}-bad.png").write_bytes(b"<html>")
    return tmp_path / "images"


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_data_check_prints_names_in_latin_1(latin: Path, options: tuple[str, ...]) -> None:
    done = CliRunner().invoke(main, ["data", "check", str(latin), *options])
    assert done.exit_code == 0, done.output
    escaped = json.dumps(SHOWN)[1:-1] if options else SHOWN
    assert f"oak/{escaped}-bad.png: not an image" in done.stdout


def test_a_run_on_names_and_captions_that_are_not_utf_8_is_complete(tmp_path: Path, latin: Path) -> None:
    members = [
        (
            f"{n}.{end}",
            encoded(noise(seed=n)) if end == "png" else b'{"caption": "half an emoji \\ud83d of %d"}' % n,
        )
        for n in range(12)
        for end in ("png", "json")
    ]
    shard = write_tar(tmp_path / "a.tar", members)
    recipe = RECIPE.replace('use = "samples"\nsplit = "val"', f'use = "webdataset"\nurls = "{shard}"')
    evaluation = (
        f"data.sources.photos={{ use = 'image_folder', path = '{latin}', caption = 'a {{class}}' }}",
        "views.rec.source=photos",
        "data.max_bad_fraction=0.5",
        f"evaluate.source={{ use = 'webdataset', urls = '{shard}' }}",
        "evaluators={ reconstruction = { use = 'reconstruction' }, retrieval = { use = 'retrieval' } }",
    )
    done = vtp(tmp_path, "run.steps=2", *evaluation, recipe=recipe)
    assert done.exit_code == 0, done.output
    run = tmp_path / "run"
    assert {"report.html", "eval.json", "tokenizer", "metrics.jsonl"} <= {path.name for path in run.iterdir()}
    assert "half an emoji ?" in (run / "report.html").read_text(encoding="utf-8")
    listed = [json.loads(line) for line in (run / "quarantine-0.jsonl").read_text().splitlines()]
    assert [line["key"] for line in listed] == [f"oak/{SHOWN}-bad.png"]


def test_paths_that_are_not_utf_8_are_refused_in_one_line(tmp_path: Path, latin: Path) -> None:
    done = CliRunner().invoke(main, ["data", "check", str(latin / LATIN)])
    assert done.exit_code == 2 and "is not UTF-8; rename the file or folder" in done.stderr
    place = tmp_path / f"{LATIN}.safetensors"
    for action in (lambda: write_weights(place, {}), lambda: read_weights(place, {})):
        with pytest.raises(UsageError, match="safetensors files need a path in UTF-8; move or rename it"):
            action()
    assert not place.exists()
    done = CliRunner().invoke(main, ["encode", "vtp-nano", str(latin), "-o", str(place)])
    assert done.exit_code == 2 and "safetensors files need a path in UTF-8; give another one" in done.stderr
