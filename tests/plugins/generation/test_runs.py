"""Runs with `generation`: two moons are learnt, stops and ranks change nothing, what is exported loads."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from sklearn.datasets import make_moons
from sklearn.neighbors import NearestNeighbors

import vtp_core
from tests.core.run.tiny_run import assert_same_bits, metrics, one_line, start, state, vtp
from vtp_core.plugins import load_plugins
from vtp_core.tokenizer import Tokenizer

PLUGIN = Path(__file__).with_name("moons.py")
MOONS = """\
schema = 1
name = "moons"
freeze = ["encoder", "bottleneck", "decoder"]

[run]
steps = 6
log_every = 1
threads = 1

[data.source]
use = "moons.moons"

[views.latents]
rows = 8
size = 8
augment = "none"

[encoder]
use = "vit"
patch = 8
width = 16
depth = 1
heads = 2

[bottleneck]
use = "linear"
channels = 2

[decoder]
use = "vit"
width = 16
depth = 1
heads = 2

[objectives.generation]
use = "generation"
view = "latents"
classes = 2
statistics_rows = 64
transformer = { width = 48, depth = 3, heads = 2 }
cosine = 0.0

[optimizer]
lr = 2e-3
weight_decay = 0.0

[ema]
momentum = 0.9

[evaluate]
statistics_samples = 0
"""


def run(folder: Path, *sets: str, **options: Any) -> Path:
    result = vtp(folder, *sets, recipe=MOONS, plugin=PLUGIN, **options)
    assert result.exit_code == 0, result.output
    return folder


def tokenizer(folder: Path) -> Tokenizer:
    return vtp_core.load(folder / "run/tokenizer", plugins=load_plugins(files=[PLUGIN]))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps."""
    return run(tmp_path_factory.mktemp("whole"))


def test_statistics_are_fixed_before_the_first_step(whole: Path) -> None:
    found = state(whole)
    for owner in ("objectives.generation.generator", "ema.objectives.generation.generator"):
        torch.testing.assert_close(found[f"{owner}.mean"], torch.tensor([11.5, -1.875]), rtol=0, atol=0.6)
        assert found[f"{owner}.grid"].tolist() == [1, 1]
        assert found[f"{owner}.frequency"].sum() == pytest.approx(1)
    assert metrics(whole)[0]["loss/generation/velocity"] == pytest.approx(2.0, rel=0.5)


def test_a_frozen_tokenizer_stays_as_it_was(whole: Path) -> None:
    assert not [name for name in state(whole) if name.startswith("optimizer") and "tokenizer" in name]


def test_what_is_exported_is_the_moving_average(whole: Path) -> None:
    held, exported = state(whole), tokenizer(whole).exports["generate"].state_dict()
    for name, tensor in exported.items():
        assert torch.equal(tensor, held[f"ema.objectives.generation.generator.{name}"]), name
    assert any(
        not torch.equal(tensor, held[f"objectives.generation.generator.{name}"])
        for name, tensor in exported.items()
    )


def test_a_saved_copy_generates_the_same(whole: Path, tmp_path: Path) -> None:
    first = tokenizer(whole)
    first.save(tmp_path / "copy")
    second = vtp_core.load(tmp_path / "copy", plugins=load_plugins(files=[PLUGIN]))
    indices = torch.arange(3)
    latent = first.generate(indices, 7)
    assert torch.equal(second.generate(indices, 7), latent)
    assert latent.shape == (3, 2, 1, 1)
    one = first.generate(indices, 7, classes=torch.tensor([0, 1, 1]), settings={"steps": 3, "guidance": 2.0})
    assert not torch.equal(one, latent)
    assert first.decode(latent).sample.shape == (3, 3, 8, 8)


def test_a_stopped_run_goes_on_bit_for_bit(whole: Path, tmp_path: Path) -> None:
    run(tmp_path, "run.steps=3")
    shutil.rmtree(tmp_path / "run/tokenizer")
    again = vtp(tmp_path, recipe=MOONS, plugin=PLUGIN, resume=True, options=("--allow-change",))
    assert again.exit_code == 0, again.output
    assert_same_bits(state(tmp_path), state(whole))
    assert "calibrated" not in again.output


@pytest.mark.slow
def test_a_later_stage_keeps_the_statistics(whole: Path, tmp_path: Path) -> None:
    run(tmp_path, f'init_from="{whole / "run"}"', "run.seed=5", "run.steps=1", "data.source.seed=9")
    name = "objectives.generation.generator.mean"
    assert torch.equal(state(tmp_path)[name], state(whole)[name])


def test_other_classes_than_those_of_the_source_are_refused_or_warned_of(tmp_path: Path) -> None:
    result = vtp(tmp_path, "objectives.generation.classes=1", recipe=MOONS, plugin=PLUGIN)
    assert result.exit_code == 3
    assert "has 1 classes, but source default (views.latents) names 2; set" in one_line(result)
    assert not (tmp_path / "run/metrics.jsonl").exists()
    more = vtp(tmp_path, "objectives.generation.classes=3", "run.steps=1", recipe=MOONS, plugin=PLUGIN)
    assert more.exit_code == 0, more.output
    assert "3 classes, but source default names 2; the others are never trained" in more.stderr


@pytest.mark.slow
def test_blocks_that_run_again_change_nothing(whole: Path, tmp_path: Path) -> None:
    run(tmp_path, "parallel.activation_checkpoint=true")
    assert_same_bits(state(tmp_path), state(whole))


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("shard", [1, 2])
def test_two_ranks_are_one(whole: Path, tmp_path: Path, shard: int) -> None:
    process = start(
        tmp_path, f"parallel.shard={shard}", recipe=MOONS, plugin=PLUGIN, options=("--nproc", "2")
    )
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    for one, two in zip(metrics(whole), metrics(tmp_path), strict=True):
        for key in ("loss/generation/velocity", "report/generation/noisy"):
            assert one.get(key) == pytest.approx(two.get(key), rel=1e-5), key
    found = state(tmp_path)
    for name, tensor in state(whole).items():
        if not name.startswith("optimizer"):
            torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("prediction", ["velocity", "x"])
def test_two_moons_are_learnt(tmp_path: Path, prediction: str) -> None:
    folder = run(
        tmp_path,
        "run.steps=500",
        "run.log_every=100",
        "views.latents.rows=256",
        f'objectives.generation.prediction="{prediction}"',
        "objectives.generation.statistics_rows=4000",
        "ema.momentum=0.99",
        "optimizer.lr={ kind = 'cosine', start = 3e-3, end = 1e-4, warmup = 20 }",
    )
    model = tokenizer(folder)
    classes = torch.arange(2000) % 2
    made = model.generate(torch.arange(2000), 1, classes=classes, settings={"sampler": "heun", "steps": 30})
    points = (made.flatten(1).double().numpy() - [10.0, -2.0]) / [3.0, 0.5]
    rng = numpy.random.default_rng(0)
    for label in (0, 1):
        own = points[classes.numpy() == label]
        arc, moons = make_moons(4000, noise=0.0, random_state=1)
        arc = arc[moons == label]
        near = NearestNeighbors(n_neighbors=1).fit(arc)
        # A Gaussian of the same mean and covariance is what a model learns that knows nothing of the moon.
        trivial = rng.multivariate_normal(arc.mean(0), numpy.cov(arc.T), len(own))
        close, chance = ((near.kneighbors(x)[0] < 0.12).mean() for x in (own, trivial))
        assert close > 0.9 and chance < 0.6, (label, close, chance)
        covered = (NearestNeighbors(n_neighbors=1).fit(own).kneighbors(arc)[0] < 0.12).mean()
        assert covered > 0.95, (label, covered)
