"""Agreement with numbers of the owner's code; tolerances of the fixtures' READMEs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
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
from vtp_core.features import Features
from vtp_core.pixels import UNIT, convert
from vtp_core.testing import check_tokenizer
from vtp_core.tokenizer import Tokenizer
from vtp_plugins.rae.decoder import RaeDecoder
from vtp_plugins.rae.encoder import RaeEncoder

DATA = Path(__file__).parents[2] / "data"


def fixture(family: str) -> Path:
    return DATA / f"rae_tiny_{family}"


def every_output(model: Tokenizer, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """All that the fixture calls ``out.*``."""
    encoder, decoder = model.encoder, model.decoder
    assert isinstance(encoder, RaeEncoder) and isinstance(decoder, RaeDecoder)
    found: dict[str, Tensor] = {}
    for j in (0, 1, 2):
        pixels = convert(given[f"in.image.{j}"], UNIT, "imagenet")
        # The encoder itself takes any size, the tokenizer multiples of the decoder's patch.
        (tokens,) = encoder([pixels[:, None]], [None])
        latents = model.bottleneck(Features(crops={"global": tokens})).z
        if j != 1:
            assert torch.equal(model.encode(pixels).latent, latents)
        found[f"latents.{j}"] = latents
        found[f"reconstruction.{j}"] = convert(model.decode(latents).sample, "imagenet", UNIT)
        if j == 0:
            patches = tokens.patches[:, 0]
            found["encoder_input.0"], found["encoder_tokens.0"] = encoder.network_input(pixels), patches
            found["raw_latents.0"] = patches.transpose(1, 2).unflatten(2, tokens.grid)
            found["decoder_logits.0"] = decoder.logits(patches)
    found["decoded"] = convert(model.decode(given["in.latents"]).sample, "imagenet", UNIT)
    return found


def pairs(model: Tokenizer, family: str) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Name, our value and the owner's of each output."""
    given = load_file(fixture(family) / "io.safetensors")
    found = every_output(model, given)
    assert {key.removeprefix("out.") for key in given if key.startswith("out.")} == found.keys()
    for name, value in found.items():
        yield name, value, given[f"out.{name}"]


def check(model: Tokenizer, family: str) -> None:
    for name, value, expected in pairs(model, family):
        limit = 1e-4 if name.startswith("latents") else 1e-5
        assert (value - expected).abs().max() <= limit, name


@pytest.mark.agrees("RAE, DINOv2: latents", "bytetriper/RAE", 1e-4, version="fixture rae_tiny_dinov2")
@pytest.mark.agrees(
    "RAE, DINOv2: tokens, decoded images", "bytetriper/RAE", 1e-5, version="fixture rae_tiny_dinov2"
)
@torch.no_grad()
def test_dinov2_as_published(agreement: Agreement) -> None:
    model = load(fixture("dinov2"))
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    for name, value, expected in pairs(model, "dinov2"):
        latents = name.startswith("latents")
        agreement(value, expected, f"RAE, DINOv2: {'latents' if latents else 'tokens, decoded images'}")


@pytest.mark.agrees("RAE, SigLIP2: latents", "bytetriper/RAE", 1e-4, version="fixture rae_tiny_siglip2")
@pytest.mark.agrees(
    "RAE, SigLIP2: tokens, decoded images", "bytetriper/RAE", 1e-5, version="fixture rae_tiny_siglip2"
)
@torch.no_grad()
def test_siglip2_as_published(agreement: Agreement) -> None:
    for name, value, expected in pairs(load(fixture("siglip2")), "siglip2"):
        latents = name.startswith("latents")
        agreement(value, expected, f"RAE, SigLIP2: {'latents' if latents else 'tokens, decoded images'}")


@torch.no_grad()
def test_from_the_owner_s_file_names(tmp_path: Path) -> None:
    """YAML deep in a clone, pickles of torch, an encoder by its hub name with ``pytorch_model.bin``."""
    source = fixture("dinov2")
    config = json.loads((source / "config.json").read_text())
    config["stage_1"]["params"] |= {
        "encoder_params": {"dinov2_path": "facebook/dinov2-with-registers-base", "normalize": True},
        "encoder_config_path": "facebook/dinov2-with-registers-base",
        "decoder_config_path": "configs/decoder/ViTXL",
        "pretrained_decoder_path": "models/decoders/dinov2/model.pt",
        "normalization_stat_path": "models/stats/stat.pt",
    }
    place = tmp_path / "configs" / "stage1" / "pretrained"
    place.mkdir(parents=True)
    (place / "DINOv2-B.yaml").write_text(json.dumps(config))
    shutil.copytree(source / "decoder", tmp_path / "configs" / "decoder" / "ViTXL")
    shutil.copytree(source / "encoder", place / "encoder")
    (place / "encoder" / "model.safetensors").unlink()
    torch.save(load_file(source / "encoder" / "model.safetensors"), place / "encoder" / "pytorch_model.bin")
    for name, path in (("model", "models/decoders/dinov2/model.pt"), ("stat", "models/stats/stat.pt")):
        (tmp_path / path).parent.mkdir(parents=True)
        torch.save(load_file(source / f"{name}.safetensors"), tmp_path / path)
    check(load(place / "DINOv2-B.yaml"), "dinov2")


@torch.no_grad()
def test_saved_as_our_own_artefact_it_is_the_same(tmp_path: Path) -> None:
    model = load(fixture("dinov2"))
    again = load(model.save(tmp_path / "own"))
    assert again.config is not None and again.config.fingerprint == fingerprint(model)
    check(again, "dinov2")
    assert "Apache License 2.0" in (tmp_path / "own" / "NOTICE").read_text()


@torch.no_grad()
def test_latents_are_normalised_already() -> None:
    model = load(fixture("siglip2"))
    pixels = model.preprocess(torch.rand(2, 3, 64, 64))
    assert torch.equal(model.encode_normalized(pixels), model.encode(pixels).latent)
    assert model.config is not None and model.config.image_size == 64
    assert "class_tokens" not in model.capabilities and "class_tokens" in load(fixture("dinov2")).capabilities


def test_eval_measures_it() -> None:
    arguments = ["eval", str(fixture("dinov2")), "--source", '{ use = "samples", split = "val" }']
    result = CliRunner().invoke(main, [*arguments, "--limit", "2", "--evaluator", "reconstruction"])
    assert result.exit_code == 0, result.output
    assert "psnr" in result.output


@pytest.mark.slow
@pytest.mark.parametrize("family", ["dinov2", "siglip2"])
def test_it_is_a_tokenizer_as_any_other(family: str) -> None:
    check_tokenizer(load(fixture(family)))
