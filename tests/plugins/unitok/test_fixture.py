"""Agreement with numbers of the owner's code; tolerances of the fixture's README."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from torch import Tensor

from tests.agreement import Agreement
from tests.plugins.unitok.published import FIXTURE, checkpoint, unpacked
from vtp_core import load
from vtp_core.artefact.fingerprint import fingerprint
from vtp_core.cli.main import main
from vtp_core.pixels import SIGNED, convert
from vtp_core.tokenizer import Tokenizer
from vtp_plugins.unitok.bottleneck import UniTokBottleneck
from vtp_plugins.unitok.decoder import UniTokDecoder

TEXT = {"clip_image.0"}
"""What needs the text tower's head, which is not read."""


@pytest.fixture(scope="module")
def given() -> dict[str, Tensor]:
    return load_file(FIXTURE / "io.safetensors")


def signed(pixels: Tensor) -> Tensor:
    return convert(pixels, "imagenet", SIGNED)


def every_output(model: Tokenizer, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """All that the fixture calls ``out.*`` but `TEXT`, through our own calls."""
    bottleneck, decoder = model.bottleneck, model.decoder
    assert isinstance(bottleneck, UniTokBottleneck) and isinstance(decoder, UniTokDecoder)
    pixels = convert(given["in.image.0"], SIGNED, "imagenet")
    tokens = model.features(pixels)["global"]
    encoded = model.encode(pixels)
    assert encoded.indices is not None and tokens.grid == (4, 4)
    latent = encoded.latent.flatten(2).transpose(1, 2)
    image = signed(model.decode_indices(encoded.indices).sample)
    codes = given["in.codes"].unflatten(2, (4, 4))
    return {
        "encoder_tokens.0": tokens.patches[:, 0],
        "quant_proj.0": bottleneck.quant_proj(tokens.patches[:, 0]),
        "codes.0": encoded.indices.flatten(2),
        "quantized.0": latent,
        "post_quant.0": decoder.post_quant_proj(latent),
        "reconstruction_unclamped.0": image,
        "reconstruction.0": image.clamp(-1, 1),
        "decoded": signed(model.decode_indices(codes).sample).clamp(-1, 1),
    }


@pytest.mark.agrees("UniTok: codes", "FoundationVision/UniTok", 0.0, version="fixture unitok_tiny")
@pytest.mark.agrees(
    "UniTok: tokens, projections, latents", "FoundationVision/UniTok", 1e-5, version="fixture unitok_tiny"
)
@pytest.mark.agrees("UniTok: images", "FoundationVision/UniTok", 2e-5, version="fixture unitok_tiny")
@torch.no_grad()
def test_as_published(given: dict[str, Tensor], tmp_path: Path, agreement: Agreement) -> None:
    model = load(checkpoint(tmp_path / "unitok_tokenizer.pth"))
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    found = every_output(model, given)
    names = {key.removeprefix("out.") for key in given if key.startswith("out.")}
    assert names == found.keys() | TEXT
    for name, value in found.items():
        assert value.shape == given[f"out.{name}"].shape, name
        image = name.startswith(("reconstruction", "decoded"))
        part = "codes" if name == "codes.0" else "images" if image else "tokens, projections, latents"
        agreement(value, given[f"out.{name}"], f"UniTok: {part}")


@pytest.mark.slow
@torch.no_grad()
def test_every_form_is_the_same(given: dict[str, Tensor], tmp_path: Path) -> None:
    model = load(unpacked(tmp_path))
    pixels = convert(given["in.image.0"], SIGNED, "imagenet")
    assert torch.equal(model.encode(pixels).indices.flatten(2), given["out.codes.0"])
    assert model.config is not None and model.config.image_size == 64
    own = load(model.save(tmp_path / "own"))
    assert own.config is not None and own.config.fingerprint == fingerprint(model)
    assert torch.equal(own.encode(pixels).latent, model.encode(pixels).latent)
    (tmp_path / "folder").mkdir()
    folder = checkpoint(tmp_path / "folder" / "unitok_tokenizer.pth").parent
    assert fingerprint(load(folder)) == fingerprint(model)


@torch.no_grad()
def test_images_that_are_not_square(tmp_path: Path) -> None:
    model = load(unpacked(tmp_path))
    pixels = torch.randn(1, 3, 32, 48)
    encoded = model.encode(pixels)
    assert encoded.indices is not None and encoded.indices.shape == (1, 4, 2, 3)
    assert model.decode(encoded.latent).sample.shape == pixels.shape


@pytest.mark.slow
def test_eval_measures_it(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "unitok_tokenizer.pth")
    arguments = ["eval", str(path), "--source", '{ use = "samples", split = "val" }', "--limit", "4"]
    chosen = [word for name in ("reconstruction", "codebook") for word in ("--evaluator", name)]
    result = CliRunner().invoke(main, [*arguments, *chosen])
    assert result.exit_code == 0, result.output
    assert "psnr" in result.output and "usage_3" in result.output
