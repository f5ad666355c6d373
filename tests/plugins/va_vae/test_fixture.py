"""Agreement with numbers of the owner's code; tolerances of the fixture's README."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from torch import Tensor

from tests.agreement import Agreement
from vtp_core import load
from vtp_core.artefact.fingerprint import fingerprint
from vtp_core.cli.main import main
from vtp_core.errors import UsageError
from vtp_core.features import Features
from vtp_core.pixels import SIGNED, convert, to_uint8
from vtp_core.plugins import load_plugins
from vtp_core.recipe import load_recipe
from vtp_core.run.setup.build import build_run_networks
from vtp_core.run.setup.init_from import init_from
from vtp_core.testing import check_tokenizer
from vtp_core.tokenizer import Tokenizer
from vtp_plugins.va_vae.format import VaVaeFormat

FOLDER = Path(__file__).parents[2] / "data" / "vavae_tiny_a"
TOLERANCE = 1e-5
CODE, DECODE, BYTES = (
    "VA-VAE: latents, moments, statistics",
    "VA-VAE: decoded images",
    "VA-VAE: decoded images, of 255",
)


@pytest.fixture(scope="module")
def given() -> dict[str, Tensor]:
    return load_file(FOLDER / "io.safetensors")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The two files as they are published: of ``torch.save``, without a configuration."""
    folder = tmp_path_factory.mktemp("published")
    path = folder / "vavae-imagenet256-f16d32-dinov2.pt"
    torch.save({"state_dict": load_file(FOLDER / "model.safetensors")}, path)
    torch.save(load_file(FOLDER / "latents_stats.safetensors"), folder / "latents_stats.pt")
    return path


def signed(pixels: Tensor) -> Tensor:
    return convert(pixels, "imagenet", SIGNED)


def every_output(model: Tokenizer, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """All that the fixture calls ``out.*``."""
    found: dict[str, Tensor] = {}
    for j in (0, 1):
        pixels = convert(given[f"in.image.{j}"], SIGNED, "imagenet")
        encoded = model.encode(pixels)
        distribution = encoded.latent_dist
        found[f"latents.{j}"], found[f"logvar.{j}"] = encoded.latent, distribution.logvar
        found[f"moments.{j}"] = torch.cat((encoded.latent, distribution.logvar), 1)
        found[f"std.{j}"] = distribution.std
        found[f"sample.{j}"] = encoded.latent + distribution.std * given[f"in.noise.{j}"]
        found[f"latents_normalised.{j}"] = model.encode_normalized(pixels)
        found[f"reconstruction.{j}"] = signed(model.decode(encoded.latent).sample)
    found["reconstruction_uint8.1"] = to_uint8(found["reconstruction.1"], SIGNED).permute(0, 2, 3, 1)
    found["decoded"] = signed(model.decode(given["in.latents"]).sample)
    return found


@pytest.mark.agrees(
    "VA-VAE: latents, moments, statistics", "hustvl/LightningDiT", 1e-5, version="fixture vavae_tiny_a"
)
@pytest.mark.agrees("VA-VAE: decoded images", "hustvl/LightningDiT", 1e-5, version="fixture vavae_tiny_a")
@pytest.mark.agrees(
    "VA-VAE: decoded images, of 255", "hustvl/LightningDiT", 1, version="fixture vavae_tiny_a"
)
@pytest.mark.parametrize("kind", ["folder", "checkpoint", "its folder"])
@torch.no_grad()
def test_as_published(given: dict[str, Tensor], checkpoint: Path, kind: str, agreement: Agreement) -> None:
    model = load({"folder": FOLDER, "checkpoint": checkpoint, "its folder": checkpoint.parent}[kind])
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    found = every_output(model, given)
    assert {key.removeprefix("out.") for key in given if key.startswith("out.")} == found.keys()
    for name, value in found.items():
        decoded = DECODE if name.startswith(("reconstruction", "decoded")) else CODE
        agreement(value, given[f"out.{name}"], BYTES if "uint8" in name else decoded)


@torch.no_grad()
def test_statistics_are_undone(given: dict[str, Tensor]) -> None:
    model = load(FOLDER)
    assert model.config is not None and model.config.scaling_factor == 1.0
    assert model.config.image_size == 256 and model.config.latents_stats_protocol
    images = model.decode_normalized(given["out.latents_normalised.1"]).sample
    assert (signed(images) - given["out.reconstruction.1"]).abs().max() <= TOLERANCE


@torch.no_grad()
def test_saved_as_our_own_artefact_it_is_the_same(given: dict[str, Tensor], tmp_path: Path) -> None:
    model = load(FOLDER)
    again = load(model.save(tmp_path / "own"))
    pixels = convert(given["in.image.1"], SIGNED, "imagenet")
    assert torch.equal(model.encode(pixels).latent, again.encode(pixels).latent)
    assert again.config is not None and again.config.fingerprint == fingerprint(model)


@torch.no_grad()
def test_written_back_it_is_the_same(given: dict[str, Tensor], tmp_path: Path) -> None:
    for _ in range(2):
        VaVaeFormat().write(load(FOLDER), tmp_path / "again")
    (tmp_path / "again/vae").mkdir()
    with pytest.raises(UsageError, match="holds vae, which would be lost"):
        VaVaeFormat().write(load(FOLDER), tmp_path / "again")
    ignored = ("loss.", "foundation_model.", "linear_proj.")
    theirs, written = (load_file(folder / "model.safetensors") for folder in (FOLDER, tmp_path / "again"))
    kept = {name: tensor for name, tensor in theirs.items() if not name.startswith(ignored)}
    assert kept.keys() == written.keys()
    assert all(torch.equal(kept[name], written[name]) for name in kept)
    found = every_output(load(tmp_path / "again"), given)
    assert (found["latents_normalised.0"] - given["out.latents_normalised.0"]).abs().max() <= TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize("kind", ["checkpoint", "its folder"])
def test_training_goes_on_from_it(checkpoint: Path, given: dict[str, Tensor], kind: str) -> None:
    sizes = "channels=32", "multipliers=[1,1,1,1,1]", "residual_blocks=1", "value_range=[-1.0,1.0]"
    changes = [f"{part}.{size}" for part in ("encoder", "decoder") for size in sizes]
    plugins = load_plugins()
    recipe = load_recipe("smoke/ae_cnn", [*changes, "encoder.width=32", "bottleneck.channels=16"], plugins)
    objectives = {name: table.untrained() for name, table in recipe.objectives.items()}
    networks, _ = build_run_networks(recipe.model_copy(update={"objectives": objectives}), plugins)
    init_from(str(checkpoint if kind == "checkpoint" else checkpoint.parent), networks, plugins)
    image = convert(given["in.image.1"], SIGNED, "imagenet")
    (tokens,) = networks.encoder([image[:, None]], [None])
    latent = networks.bottleneck.eval()(Features(crops={"global": tokens})).z
    assert (latent - given["out.latents.1"]).abs().max() <= TOLERANCE
    assert (networks.decoder(latent) - given["out.reconstruction.1"]).abs().max() <= TOLERANCE


@pytest.mark.slow
def test_eval_measures_it(checkpoint: Path) -> None:
    arguments = ["eval", str(checkpoint), "--source", '{ use = "samples", split = "val" }', "--limit", "2"]
    result = CliRunner().invoke(main, [*arguments, "--evaluator", "reconstruction"])
    assert result.exit_code == 0, result.output
    assert "psnr" in result.output


@pytest.mark.slow
def test_it_is_a_tokenizer_as_any_other() -> None:
    model = load(FOLDER)
    assert model.config is not None
    model.config = model.config.model_copy(update={"image_size": 32})
    check_tokenizer(model)
