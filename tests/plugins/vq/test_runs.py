"""Whole runs with codes: `vq` and `pca_vq` train, stop, resume, and leave a tokenizer of codes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file

from tests.core.run.tiny_run import RECIPE, assert_same_bits, metrics, start, state, vtp
from vtp_core import load
from vtp_core.cli.main import main

STOP = 'callbacks.stop={use = "faulty.signal", at = 3, first = true}'
SMALL = "calibration_rows = 8\nsample_rows = 8\nsample_tokens = 2\n"
BOTTLENECKS = {
    "vq": f"""use = "vq"
channels = 4
{SMALL}quantizer = {{ kind = "ema", codes = 16, revive_every = 4, dead_below = 0.5 }}
""",
    "learned": f"""use = "vq"
channels = 4
{SMALL}quantizer = {{ kind = "product", groups = 2, each = {{ kind = "codebook_loss", codes = 16 }} }}
""",
    "residual": f"""use = "vq"
channels = 4
{SMALL}quantizer = {{ kind = "library", name = "ResidualVQ", codes = 16, stages = 3 }}
""",
    "levels": f"""use = "vq"
channels = 4
{SMALL}quantizer = {{ kind = "library", name = "ResidualFSQ", levels = [4, 4, 3, 3], stages = 2 }}
""",
    "pca_vq": f"""use = "pca_vq"
fusion = {{ layers = [0], shallow = 4 }}
{SMALL}quantizer = {{ codebook = {{ codes = 16, revive_every = 4, dead_below = 0.5 }} }}
branches = {{ shallow = {{ codebook = {{ codes = 8, commitment = 0.25 }}, recalibrate = [2, 5] }} }}
""",
}
BOOKS = {"vq": (16,), "learned": (16, 16), "residual": (16, 16, 16), "levels": (144, 144), "pca_vq": (16, 8)}

NAMES = [
    "pca_vq",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("vq", "learned", "residual", "levels")),
]


def recipe(name: str) -> str:
    found = RECIPE.replace('use = "linear"\nchannels = 4\n', BOTTLENECKS[name], 1)
    return found.replace("depth = 1", "depth = 2", 1)


@pytest.fixture(scope="module", params=NAMES)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The bottleneck, and the folder of a run that was not stopped."""
    folder = tmp_path_factory.mktemp("whole")
    result = vtp(folder, recipe=recipe(request.param))
    assert result.exit_code == 0, result.output
    if request.param == "pca_vq":
        assert "effective dimensions" in result.stderr
    return request.param, folder


@pytest.mark.slow
def test_a_stopped_run_goes_on_bit_for_bit(whole: tuple[str, Path], tmp_path: Path) -> None:
    name, reference = whole
    assert vtp(tmp_path, STOP, recipe=recipe(name)).exit_code == 75
    result = vtp(tmp_path, STOP, recipe=recipe(name), resume=True)
    assert result.exit_code == 0, result.output
    assert_same_bits(state(tmp_path), state(reference))
    assert metrics(tmp_path) == metrics(reference)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vq", "pca_vq"])
def test_skipped_steps_delay_revival_and_new_axes_alike_after_a_resume(name: str, tmp_path: Path) -> None:
    """Steps before, at and after those of revival (0, 4) and new axes (2, 5) are skipped."""
    bad = "objectives.bad={use = 'faulty.bad_number', view = 'rec', where = 'loss', at = [1, 3, 4]}"
    sets = (bad, "run.max_skipped_steps=2", "run.steps=7")
    for folder in ("whole", "stopped"):
        (tmp_path / folder).mkdir()
    result = vtp(tmp_path / "whole", *sets, recipe=recipe(name))
    assert result.exit_code == 0, result.output
    assert result.output.count("skipped: loss bad/") == 3
    stop = (
        'callbacks.stop={use = "faulty.signal", at = 5, first = true}'  # between what is skipped and made up
    )
    assert vtp(tmp_path / "stopped", *sets, stop, recipe=recipe(name)).exit_code == 75
    assert vtp(tmp_path / "stopped", *sets, stop, recipe=recipe(name), resume=True).exit_code == 0
    assert_same_bits(state(tmp_path / "stopped"), state(tmp_path / "whole"))


def test_the_tokenizer_writes_codes_and_reads_them(whole: tuple[str, Path], tmp_path: Path) -> None:
    name, folder = whole
    tokenizer = load(folder / "run/tokenizer")
    assert tokenizer.bottleneck.codebook_sizes == BOOKS[name]
    picture = tmp_path / "picture.png"
    Image.effect_mandelbrot((24, 16), (-2, -1.5, 1, 1.5), 50).convert("RGB").save(picture)
    found = tokenizer.encode(tokenizer.preprocess(picture, (16, 24)))
    assert found.indices.shape == (1, len(BOOKS[name]), 2, 3)
    torch.testing.assert_close(
        tokenizer.decode_indices(found.indices).sample, tokenizer.decode(found.latent).sample
    )
    half = load(folder / "run/tokenizer").to(torch.bfloat16)
    assert half.decode_indices(half.encode(half.preprocess(picture)).indices).sample.isfinite().all()

    codes = tmp_path / "codes.safetensors"
    called = ["encode", str(folder / "run"), str(picture), "-o", str(codes), "--exact"]
    result = CliRunner().invoke(main, called)
    assert result.exit_code == 0, result.output
    assert torch.equal(load_file(codes)["indices"], found.indices)


@pytest.mark.parametrize("name", NAMES)
def test_its_plan_is_made(name: str, tmp_path: Path) -> None:
    path = tmp_path / "tiny.toml"
    path.write_text(recipe(name))
    result = CliRunner().invoke(main, ["plan", str(path)])
    assert result.exit_code == 0, result.output
    assert "Memory per rank" in result.output


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("name", ["vq", "pca_vq"])
def test_two_processes_train_like_one(name: str, tmp_path: Path) -> None:
    alone, both = tmp_path / "alone", tmp_path / "both"
    for folder in (alone, both):
        folder.mkdir()
    assert vtp(alone, recipe=recipe(name)).exit_code == 0
    process = start(both, "parallel.shard=2", recipe=recipe(name), options=("--nproc", "2"))
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    for left, right in zip(metrics(alone), metrics(both), strict=True):
        assert right == pytest.approx(left, rel=5e-3, abs=1e-4), left["step"]
