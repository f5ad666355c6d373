"""Whole runs of all objectives on odd, empty or degenerate input: finite numbers or one clear line."""

from __future__ import annotations

import io
import json
import math
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy
import pytest
from click.testing import Result
from PIL import Image

from tests.core.run.tiny_run import metrics, one_line, vtp

RECIPE = """\
schema = 1
name = "odd"

[run]
steps = 2
log_every = 1
threads = 1

[data]
max_bad_fraction = 0.9

[data.source]
use = "webdataset"
urls = "@"
classes = ["bee", "cup", "dog", "fox", "hat", "owl"]

[views.image]
rows = 4
size = 16
augment = "clip"

[views.ssl]
rows = 4
size = 16
augment = "dino"
crops.global = { count = 2 }
crops.local = { count = 2, size = 8 }
masks = {}

[encoder]
use = "vit"
patch = 4
width = 16
depth = 1
heads = 2

[bottleneck]
use = "linear"
channels = 4

[decoder]
use = "vit"
width = 16
depth = 1
heads = 2

[objectives.clip]
use = "clip"
view = "image"
width = 16
depth = 1
heads = 2
context = 8

[objectives.dino]
use = "dino"
view = "ssl"
prototypes = 16
head_hidden = 32
head_width = 8
freeze_prototypes = 0

[objectives.mim]
use = "mim"
view = "ssl"
share_head_with = "dino"

[objectives.koleo]
use = "koleo"
view = "ssl"

[objectives.l1]
use = "l1"
view = "image"

[optimizer]
lr = 1e-3

[evaluate]
source = { use = "webdataset", urls = "@", classes = ["bee", "cup", "dog", "fox", "hat", "owl"] }

[evaluators.knn]
use = "knn"

[evaluators.linear_probe]
use = "linear_probe"

[evaluators.zero_shot]
use = "zero_shot"

[evaluators.retrieval]
use = "retrieval"
"""
ONE_EACH = [f"a {name}".encode() for name in ("bee", "cup", "dog", "fox", "hat", "owl")]


def shard(path: Path, captions: Sequence[bytes], *, flat: bool = False) -> Path:
    """A sample for each caption: noise, or one grey for all of them, with a class of its own."""
    draw = numpy.random.default_rng(0)
    with tarfile.open(path, "w") as archive:
        for number, caption in enumerate(captions):
            pixels = numpy.full((16, 16, 3), 128) if flat else draw.integers(0, 256, (16, 16, 3))
            encoded = io.BytesIO()
            Image.fromarray(pixels.astype(numpy.uint8)).save(encoded, "png")
            members = {"png": encoded.getvalue(), "txt": caption, "cls": b"%d" % (number % 6)}
            for extension, data in members.items():
                member = tarfile.TarInfo(f"{number:03d}.{extension}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Result]:
    """Runs the recipe on a shard of such captions; without evaluators unless told."""

    def run_on(captions: Sequence[bytes], *sets: str, flat: bool = False, evaluate: bool = False) -> Result:
        urls = shard(tmp_path / "odd.tar", captions, flat=flat)
        recipe = RECIPE if evaluate else RECIPE[: RECIPE.index("[evaluate]")]
        return vtp(tmp_path, *sets, recipe=recipe.replace("@", str(urls)))

    return run_on


def assert_finite(result: Result, folder: Path, steps: int = 2) -> None:
    """All steps were made, every logged number is finite, and so is every loss."""
    assert result.exit_code == 0, result.output
    lines = [line for line in metrics(folder) if not any(key.startswith("eval/") for key in line)]
    assert [line["step"] for line in lines] == list(range(1, steps + 1))
    for line in lines:
        numbers = {key: value for key, value in line.items() if isinstance(value, int | float)}
        assert all(math.isfinite(value) for value in numbers.values()), numbers
        assert {key.split("/")[1] for key in numbers if key.startswith("loss/")} == {
            "clip", "dino", "mim", "koleo", "l1"
        }  # fmt: skip


def quarantined(folder: Path) -> dict[str, str]:
    lines = (folder / "run" / "quarantine-0.jsonl").read_text("utf-8").splitlines()
    return {entry["key"]: entry["reason"] for entry in map(json.loads, lines)}


ODD_SETTINGS = {
    "all patches masked": ["views.ssl.masks={ ratio = [1.0, 1.0], probability = 1.0 }"],
    "nothing masked": ["views.ssl.masks={ probability = 0.0 }"],
    "a batch of one": ["views.image.rows=1", "views.ssl.rows=1"],
    "a batch of one in bfloat16": ["views.image.rows=1", "views.ssl.rows=1", "run.precision=bfloat16"],
    "targets around a mean": ["objectives.dino.targets=centering", "views.ssl.rows=1"],
    "nearest within a rank": ["objectives.koleo.scope=rank", "views.ssl.rows=1"],
    "contrast on the crops of self-distillation": ["objectives.clip.view=ssl"],
    "crops of a single patch": ["views.ssl.crops.local={ count = 2, size = 4 }"],
    "more rows than samples": ["views.image.rows=16", "views.ssl.rows=16"],
}


@pytest.mark.parametrize("case", ODD_SETTINGS)
def test_odd_settings_stay_finite(case: str, run: Callable[..., Result], tmp_path: Path) -> None:
    assert_finite(run(ONE_EACH, *ODD_SETTINGS[case]), tmp_path)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_equal_images_with_equal_captions_stay_finite(
    precision: str, run: Callable[..., Result], tmp_path: Path
) -> None:
    assert_finite(run([b"the same"] * 6, f"run.precision={precision}", flat=True), tmp_path)
    lines = metrics(tmp_path)
    assert all(
        line["loss/clip/contrast"] == 0 for line in lines
    )  # no other caption, so nothing to tell apart


def test_one_image_a_class_is_evaluated(run: Callable[..., Result], tmp_path: Path) -> None:
    assert_finite(run(ONE_EACH, evaluate=True), tmp_path)
    scores = json.loads((tmp_path / "run/eval.json").read_text("utf-8"))
    assert scores.keys() == {"knn", "linear_probe", "zero_shot", "retrieval_r1", "retrieval_r5"}
    for score in scores.values():
        assert 0 <= score["value"] <= 1 and 0 <= score["baseline"] <= 1
    assert scores["zero_shot"]["baseline"] == pytest.approx(1 / 6)


def test_a_caption_of_a_megabyte_is_replaced_or_cut_to_the_context(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    captions = [*ONE_EACH[:5], b"word " * 200_000]
    assert_finite(run(captions), tmp_path)
    assert quarantined(tmp_path) == {"005": "caption too long"}


@pytest.mark.slow
def test_a_caption_of_a_megabyte_within_the_limit_is_cut(run: Callable[..., Result], tmp_path: Path) -> None:
    result = run([b"word " * 200_000] * 6, "data.decode.max_text_bytes=2000000", "run.steps=1")
    assert_finite(result, tmp_path, 1)
    assert not (tmp_path / "run" / "quarantine-0.jsonl").exists()


BAD_CAPTIONS = {"empty": b"", "blank": b" \n\t ", "only NULs": b"\0\0"}


@pytest.mark.parametrize("case", BAD_CAPTIONS)
def test_an_empty_caption_is_replaced_and_counted(
    case: str, run: Callable[..., Result], tmp_path: Path
) -> None:
    assert_finite(run([*ONE_EACH[:5], BAD_CAPTIONS[case]]), tmp_path)
    assert quarantined(tmp_path) == {"005": "no caption"}


def test_nothing_but_empty_captions_ends_the_run_with_the_reason(run: Callable[..., Result]) -> None:
    result = run([b""] * 6)
    assert result.exit_code == 3
    assert "no caption" in one_line(result)


@pytest.mark.parametrize(
    "caption", [b"\xff\xfe\x80", "\u202eאבג\u202c".encode(), "👩‍👩‍👧‍👦".encode() * 50, b"&lt;b&gt; " * 30]
)
def test_any_caption_trains(caption: bytes, run: Callable[..., Result], tmp_path: Path) -> None:
    assert_finite(run([*ONE_EACH[:5], caption]), tmp_path)


def test_ruined_weights_are_no_tokenizer(run: Callable[..., Result], tmp_path: Path) -> None:
    result = run(ONE_EACH, "optimizer.lr=1e38", "optimizer.clip=1e30", "run.steps=3")
    assert result.exit_code == 4
    assert "tensors of the tokenizer are not finite" in one_line(result)
    assert not (tmp_path / "run/tokenizer").exists()


GAN = (
    "objectives.gan={ use = 'gan', view = 'image', critic = { kind = 'patchgan', filters = 8, layers = 2 } }"
)


def test_a_critic_without_company_is_told_of(run: Callable[..., Result], tmp_path: Path) -> None:
    lonely = GAN.replace("objectives.gan", "objectives.lonely").replace("'image'", "'other'")
    result = run(ONE_EACH, lonely, "views.other={ rows = 4, size = 16, augment = 'clip' }")
    assert result.exit_code == 0, result.output
    assert "objectives.lonely: its weight adapts" in result.stderr and "trains nothing" in result.stderr
    assert metrics(tmp_path)[-1]["report/lonely/d_weight"] == 0


def test_a_critic_of_what_is_frozen_trains_alone(run: Callable[..., Result], tmp_path: Path) -> None:
    result = run(ONE_EACH, GAN, "freeze=['encoder', 'bottleneck', 'decoder']")
    assert result.exit_code == 0, result.output
    assert metrics(tmp_path)[-1]["report/gan/exposure"] == 1
