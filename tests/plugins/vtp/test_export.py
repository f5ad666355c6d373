"""`vtp export --format vtp`: from a run, from a folder, and what doesn't fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file

from tests.plugins.vtp.making import SMALL, draw, write
from vtp_core import load
from vtp_core.artefact.assembly import assemble, training_modules
from vtp_core.artefact.from_recipe import artefact_config, tokenizer_from_checkpoint
from vtp_core.cli.main import main
from vtp_core.errors import UsageError
from vtp_core.plugins import load_plugins
from vtp_core.recipe import dump_toml, load_recipe
from vtp_core.tokenizer import Tokenizer
from vtp_core.training.saving.checkpoint import save as save_checkpoint
from vtp_plugins.vtp import VTPModel
from vtp_plugins.vtp.format import VtpFormat

pytestmark = pytest.mark.slow

RECIPE = """
name = "small"
[run]
steps = 3
[data.source]
use = "samples"
split = "train"
[views.image]
rows = 4
size = 32
augment = "clip"
[encoder]
use = "vit"
width = 16
depth = 2
heads = 2
rope_dtype = "bfloat16"
rope_periods_saved = true
[bottleneck]
use = "linear"
channels = 6
[decoder]
use = "vit"
width = 8
depth = 1
heads = 1
rope_dtype = "bfloat16"
rope_periods_saved = true
[objectives.l1]
use = "l1"
view = "image"
[objectives.clip]
use = "clip"
view = "image"
width = 8
depth = 2
heads = 2
context = 9
mlp_ratio = 2.7
features = "pooled"
bottleneck = true
[optimizer]
lr = 1e-3
"""
PLUGINS = load_plugins()


def tokenizer(folder: Path, *overrides: str) -> Tokenizer:
    (folder / "recipe.toml").write_text(RECIPE)
    recipe = load_recipe(folder / "recipe.toml", list(overrides), PLUGINS)
    return assemble(artefact_config(recipe, PLUGINS, step=3), PLUGINS)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder whose checkpoint has a teacher of everything but the text tower."""
    folder = tmp_path_factory.mktemp("run")
    model = tokenizer(folder)
    recipe = load_recipe(folder / "recipe.toml", plugins=PLUGINS)
    (folder / "resolved.toml").write_text(dump_toml(recipe))
    state = {}
    for name, module in training_modules(model).items():
        for key, value in module.state_dict().items():
            state[f"{name}.{key}"] = value = torch.randn_like(value) if "periods" not in key else value
            if "clip" not in name:
                state[f"ema.{name}.{key}"] = value if "periods" in key else value + 1
    assert "objectives.clip.logit_scale" in state
    save_checkpoint(folder / "checkpoints", 3, state, recipe={})
    return folder


def vtp(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.mark.parametrize("weights", ["student", "teacher"])
def test_a_run_s_tokenizer(run: Path, tmp_path: Path, weights: str) -> None:
    options = ("--format", "vtp", "--weights", weights, "--limit", 8)
    result = vtp("export", run, tmp_path / "out", *options)
    assert result.exit_code == 0, result.output
    assert f"{weights} of step_" in result.output or weights in result.output
    assert ("has no teacher" in result.output) == (weights == "teacher")
    model = load(tmp_path / "out")
    assert isinstance(model, VTPModel)
    assert not model.config.vision_bottleneck_ae_only and model.config.vision_clip_feat == "pooled"
    assert model.config.text_mlp_ratio == 2.7 and model.config.image_size == 32
    assert model.config.latents_mean is not None and len(model.config.latents_mean) == 6

    recipe = load_recipe(run / "resolved.toml", plugins=PLUGINS)
    (checkpoint,) = (path for path in (run / "checkpoints").iterdir() if path.is_dir())
    ours, _ = tokenizer_from_checkpoint(checkpoint, recipe, PLUGINS, weights=weights)  # type: ignore[arg-type]
    pixels = torch.randn(2, 3, 48, 32)
    assert torch.equal(model.encode(pixels).latent, ours.encode(pixels).latent)
    latent = torch.randn(1, 6, 2, 3)
    assert torch.equal(model.decode(latent).sample, ours.decode(latent).sample)
    assert torch.equal(model.embed_image(pixels), ours.embed_image(pixels))
    assert torch.equal(model.embed_text(["a ring", ""]), ours.embed_text(["a ring", ""]))
    assert torch.equal(model.logit_scale, ours.exports["logit_scale"]["logit_scale"])


@pytest.mark.parametrize("layout", ["vtp", "artefact"])
def test_training_goes_on_from_a_folder(run: Path, layout: str, tmp_path: Path) -> None:
    """Text tower, projections and temperature too, not the tokenizer alone."""
    assert vtp("export", run, tmp_path / "first", "--format", layout).exit_code == 0
    changes = (
        "-s",
        f"init_from={tmp_path / 'first'}",
        "-s",
        f"run.out={tmp_path / 'run'}",
        "-s",
        "run.steps=1",
    )
    result = vtp("run", run / "recipe.toml", *changes, "-s", "optimizer.lr=1e-30", "-s", "evaluate={}")
    assert result.exit_code == 0, result.output
    assert "starts fresh" not in result.output
    first, second = load(tmp_path / "first"), load(tmp_path / "run/tokenizer")
    pixels = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(second.encode(pixels).latent, first.encode(pixels).latent)
    torch.testing.assert_close(second.embed_image(pixels), first.embed_image(pixels))
    torch.testing.assert_close(second.embed_text(["a ring"]), first.embed_text(["a ring"]))
    result = vtp(
        "run", run / "recipe.toml", *changes, "-s", "run.out=other", "-s", "objectives.clip.context=10"
    )
    assert result.exit_code == 5 and "objectives.clip.text.positions has shape (9, 8)" in result.output, (
        result.output
    )


def test_a_published_folder_comes_back(tmp_path: Path) -> None:
    state = draw(SMALL)
    write(tmp_path / "a", SMALL, state)
    for source, target in (("a", "b"), ("b", "c")):
        result = vtp("export", tmp_path / source, tmp_path / target, "--format", "vtp")
        assert result.exit_code == 0 and "note" not in result.output, result.output
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("b", "c")]
    assert files[0] == files[1]
    written = load_file(tmp_path / "c" / "model.safetensors")
    assert all(torch.equal(written[name], value) for name, value in state.items())
    assert (tmp_path / "b" / "config.json").read_text() == (tmp_path / "c" / "config.json").read_text()

    result = vtp("export", tmp_path / "a", tmp_path / "own")
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "own" / "config.json").read_text())["format"] == "vtp-tokenizer"
    result = vtp("export", tmp_path / "own", tmp_path / "d", "--format", "vtp")
    assert result.exit_code == 0, result.output
    written = load_file(tmp_path / "d" / "model.safetensors")
    assert all(torch.equal(written[name], value) for name, value in state.items())


def test_refusals_of_the_command(run: Path, tmp_path: Path) -> None:
    write(tmp_path / "a", SMALL, draw(SMALL))
    for arguments, code, message in (
        ((tmp_path / "a", tmp_path / "b", "--weights", "teacher"), 2, "holds no teacher"),
        ((tmp_path, tmp_path / "b"), 5, "no tokenizer here"),
        ((tmp_path / "a", tmp_path / "b", "--format", "vpt"), 2, 'unknown format "vpt"'),
    ):
        result = vtp("export", *arguments)
        assert result.exit_code == code and message in result.output, result.output
        assert len(result.output.strip().splitlines()) == 1 and not (tmp_path / "b").exists()


def test_float32_positions_are_noted_and_kept(tmp_path: Path) -> None:
    float32 = [f'{part}.rope_dtype="float32"' for part in ("encoder", "decoder")]
    float32 += [f"{part}.rope_periods_saved=false" for part in ("encoder", "decoder")]
    ours = tokenizer(tmp_path, *float32)
    with pytest.warns(UserWarning, match="published code turns positions in bfloat16"):
        VtpFormat().write(ours, tmp_path / "out")
    model = load(tmp_path / "out")
    pixels = torch.randn(1, 3, 32, 48)
    assert torch.equal(model.encode(pixels).latent, ours.encode(pixels).latent)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["rope_dtype"] == "float32"
    # What the published code would do with it:
    as_published = VTPModel.from_pretrained(tmp_path / "out", rope_dtype="bfloat16")
    assert not torch.equal(as_published.encode(pixels).latent, ours.encode(pixels).latent)


def test_without_text(tmp_path: Path) -> None:
    ours = tokenizer(tmp_path)
    assert ours.config is not None
    bare = Tokenizer(ours.encoder, ours.bottleneck, None, config=ours.config)
    VtpFormat().write(bare, tmp_path / "out")
    model = load(tmp_path / "out")
    assert model.capabilities == {"encode", "class_tokens"}
    pixels = torch.randn(1, 3, 16, 16)
    assert torch.equal(model.encode(pixels).latent, ours.encode(pixels).latent)


MISFITS = {
    "encoder has no class token": ["encoder.cls_token=false"],
    "encoder has rope_base = 50": ["encoder.rope_base=50"],
    "bottleneck is KlBottleneck": ['bottleneck.use="kl"'],
    "decoder has mlp_ratio = 3": ["decoder.mlp_ratio=3.0"],
    "decoder makes 8 pixels a position": ["decoder.upscale=8", "encoder.patch=8"],
    "decoder has value_range": ["decoder.value_range=[0.0, 1.0]"],
    "decoder has rope_dtype": ['decoder.rope_dtype="float32"'],
    "contrastive head has embedding = 5": ["objectives.clip.embedding=5"],
    "text tower has merges = 9": ["objectives.clip.merges=9"],
}


@pytest.mark.parametrize(("message", "overrides"), MISFITS.items(), ids=MISFITS.keys())
def test_the_part_that_does_not_fit_is_named(message: str, overrides: list[str], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        VtpFormat().write(tokenizer(tmp_path, *overrides), tmp_path / "out")
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_parts_of_others_do_not_fit(tmp_path: Path) -> None:
    from tests.core.toy_tokenizer import toy_tokenizer

    with pytest.raises(UsageError, match=r"encoder is .*, the layout has `vit`"):
        VtpFormat().write(toy_tokenizer(), tmp_path / "out")
    ours = tokenizer(tmp_path)
    by_hand = Tokenizer(ours.encoder, ours.bottleneck, ours.decoder)
    with pytest.raises(UsageError, match="no image size"):
        VtpFormat().write(by_hand, tmp_path / "out")
    half = Tokenizer(ours.encoder, ours.bottleneck, None, {"embed_image": ours.exports["embed_image"]})
    half.config = ours.config
    with pytest.raises(UsageError, match="contrastive head lacks embed_text"):
        VtpFormat().write(half, tmp_path / "out")
    more = Tokenizer(ours.encoder, ours.bottleneck, None, {"caption": torch.nn.Linear(2, 2)})
    more.config = ours.config
    with pytest.warns(UserWarning, match="left out.*caption"):
        VtpFormat().write(more, tmp_path / "out")


def test_the_license_of_published_weights_is_stated_and_not_of_ours(tmp_path: Path) -> None:
    published = write(tmp_path / "published", SMALL, draw(SMALL))
    for read in (load, VTPModel.from_pretrained):
        model = read(published)
        assert (
            "license of the published weights: modified MIT"
            in (model.save(tmp_path / read.__name__) / "README.md").read_text()
        )
    model.save_pretrained(tmp_path / "written")
    for read in (load, VTPModel.from_pretrained):
        config = read(tmp_path / "written").config
        assert config is not None and config.license == ""
