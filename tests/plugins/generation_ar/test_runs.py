"""Runs with `generation_ar`: stops and ranks change nothing, what is exported loads and generates."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import vtp_core
from tests.core.run.tiny_run import assert_same_bits, metrics, one_line, start, state, vtp

RECIPE = """\
schema = 1
name = "codes"
freeze = ["encoder", "bottleneck", "decoder"]

[run]
steps = 4
log_every = 1
threads = 1

[data.source]
use = "samples"
split = "val"

[views.codes]
rows = 8
size = 16
augment = "none"

[encoder]
use = "vit"
patch = 8
width = 16
depth = 1
heads = 2

[bottleneck]
use = "vq"
channels = 4
calibration_rows = 32
quantizer = { kind = "product", groups = 2, each = { kind = "ema", codes = 6 } }

[decoder]
use = "vit"
width = 16
depth = 1
heads = 2

[objectives.ar]
use = "generation_ar"
view = "codes"
classes = 11
statistics_rows = 32
transformer = { width = 16, depth = 1, heads = 2 }

[optimizer]
lr = 1e-2

[ema]
momentum = 0.9

[evaluate]
statistics_samples = 0
"""


def run(folder: Path, *sets: str, **options: Any) -> Path:
    result = vtp(folder, *sets, recipe=RECIPE, **options)
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps."""
    return run(tmp_path_factory.mktemp("whole"))


def test_a_run_exports_the_moving_average_which_generates_codes(whole: Path) -> None:
    assert metrics(whole)[0]["loss/ar/nll"] == pytest.approx(math.log(6), rel=1e-4)
    held, tokenizer = state(whole), vtp_core.load(whole / "run/tokenizer")
    generator = tokenizer.exports["generate"]
    for name, tensor in generator.state_dict().items():
        assert torch.equal(tensor, held[f"ema.objectives.ar.generator.{name}"]), name
    latent = tokenizer.generate(torch.arange(3), 7)
    codes = generator.generate(torch.arange(3), 7, (4, 2, 2))
    assert codes.shape == (3, 2, 2, 2)
    assert torch.equal(latent, tokenizer.bottleneck.decode_codes(codes))
    assert tokenizer.decode(latent).sample.shape == (3, 3, 16, 16)


@pytest.mark.slow
def test_a_stopped_run_goes_on_bit_for_bit(whole: Path, tmp_path: Path) -> None:
    run(tmp_path, "run.steps=2")
    shutil.rmtree(tmp_path / "run/tokenizer")
    run(tmp_path, resume=True, options=("--allow-change",))
    assert_same_bits(state(tmp_path), state(whole))


def test_a_continuous_tokenizer_is_refused_before_step_0(tmp_path: Path) -> None:
    before, _, after = RECIPE.partition("[bottleneck]")
    linear = '[bottleneck]\nuse = "linear"\nchannels = 4\n\n[decoder]'
    result = vtp(tmp_path, recipe=before + linear + after.partition("[decoder]")[2])
    assert result.exit_code == 2 and "continuous and has no codes" in one_line(result)


@pytest.mark.slow
@pytest.mark.distributed
def test_two_ranks_are_one(whole: Path, tmp_path: Path) -> None:
    process = start(tmp_path, "parallel.shard=2", recipe=RECIPE, options=("--nproc", "2"))
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    for one, two in zip(metrics(whole), metrics(tmp_path), strict=True):
        for key in ("loss/ar/nll", "report/ar/codebook_1"):
            assert one[key] == pytest.approx(two[key], rel=1e-5), key
    found = state(tmp_path)
    for name, tensor in state(whole).items():
        if not name.startswith("optimizer"):
            torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.slow
def test_bfloat16_trains(tmp_path: Path) -> None:
    first, *_, last = metrics(run(tmp_path, 'run.precision="bfloat16"', "run.steps=60"))
    assert last["loss/ar/nll"] < first["loss/ar/nll"] - 0.1
