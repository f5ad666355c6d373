"""Agreement with numbers of the owner's code; tolerances of the fixtures' READMEs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from torch import Tensor

from tests.agreement import Agreement
from tests.plugins.titok.published import KINDS, fixture, written
from vtp_core import load
from vtp_core.artefact.fingerprint import fingerprint
from vtp_core.cli.main import main
from vtp_core.pixels import UNIT, convert
from vtp_core.tokenizer import Tokenizer
from vtp_plugins.titok.decoder import TiTokDecoder
from vtp_plugins.titok.format import TiTokFormat


def unit(pixels: Tensor) -> Tensor:
    return convert(pixels, "imagenet", UNIT)


def every_output(model: Tokenizer, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """All that the fixture calls ``out.*``, through our own calls."""
    found: dict[str, Tensor] = {}
    quantised = "codes" in model.capabilities
    linear = model.bottleneck.project if quantised else model.bottleneck.moments
    for j in (0, 1):
        pixels = convert(given[f"in.image.{j}"], UNIT, "imagenet")
        tokens = model.features(pixels)["global"]
        count = tokens.patches.shape[2]
        assert tokens.grid == (1, count)
        found[f"encoder_tokens.{j}"] = linear(tokens.patches[:, 0]).transpose(1, 2).unflatten(2, (1, count))
        encoded = model.encode(pixels)
        if quantised:
            assert encoded.indices is not None
            found[f"codes.{j}"] = encoded.indices[:, :, 0]
            found[f"quantized.{j}"] = encoded.latent
            found[f"reconstruction.{j}"] = unit(model.decode_indices(encoded.indices).sample)
            found[f"reconstruction_from_quantized.{j}"] = unit(model.decode(encoded.latent).sample)
        else:
            dist = encoded.latent_dist
            found[f"mean.{j}"], found[f"logvar.{j}"] = dist.mean, dist.logvar
            found[f"sample.{j}"] = dist.mean + dist.std * given[f"in.noise.{j}"]
            found[f"reconstruction.{j}"] = unit(model.decode(dist.mode()).sample)
    decoder = model.decoder
    assert isinstance(decoder, TiTokDecoder)
    if quantised:
        found["decoded"] = unit(model.decode_indices(given["in.codes"].unsqueeze(2)).sample)
        if decoder.pixel_decoder is not None:
            found["pixel_logits.1"] = decoder.ffn(decoder.hidden(found["quantized.1"]))
    else:
        found["decoded"] = unit(model.decode(given["in.latents"]).sample)
    return found


def part(name: str) -> str:
    """The row of the agreement table that an output belongs to."""
    if name.startswith("codes"):
        return "codes"
    return "images" if name.startswith(("reconstruction", "decoded", "pixel")) else "tokens, latents"


@torch.no_grad()
def compare(kind: str, folder: Path, agreement: Agreement) -> None:
    model = load(written(folder, kind))
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    given = load_file(fixture(kind) / "io.safetensors")
    found = every_output(model, given)
    assert {key.removeprefix("out.") for key in given if key.startswith("out.")} == found.keys()
    for name, value in found.items():
        assert value.shape == given[f"out.{name}"].shape, name
        agreement(value, given[f"out.{name}"], f"TiTok {kind}: {part(name)}")


@pytest.mark.agrees("TiTok legacy: codes", "bytedance/1d-tokenizer", 0.0, version="fixture titok_tiny_legacy")
@pytest.mark.agrees(
    "TiTok legacy: tokens, latents", "bytedance/1d-tokenizer", 1e-5, version="fixture titok_tiny_legacy"
)
@pytest.mark.agrees(
    "TiTok legacy: images", "bytedance/1d-tokenizer", 2e-5, version="fixture titok_tiny_legacy"
)
def test_legacy_as_published(tmp_path: Path, agreement: Agreement) -> None:
    compare("legacy", tmp_path, agreement)


@pytest.mark.agrees("TiTok vq: codes", "bytedance/1d-tokenizer", 0.0, version="fixture titok_tiny_vq")
@pytest.mark.agrees(
    "TiTok vq: tokens, latents", "bytedance/1d-tokenizer", 1e-5, version="fixture titok_tiny_vq"
)
@pytest.mark.agrees("TiTok vq: images", "bytedance/1d-tokenizer", 2e-5, version="fixture titok_tiny_vq")
def test_vq_as_published(tmp_path: Path, agreement: Agreement) -> None:
    compare("vq", tmp_path, agreement)


@pytest.mark.agrees(
    "TiTok vae: tokens, latents", "bytedance/1d-tokenizer", 1e-5, version="fixture titok_tiny_vae"
)
@pytest.mark.agrees("TiTok vae: images", "bytedance/1d-tokenizer", 2e-5, version="fixture titok_tiny_vae")
def test_vae_as_published(tmp_path: Path, agreement: Agreement) -> None:
    compare("vae", tmp_path, agreement)


@pytest.mark.parametrize(
    "kind", [kind if kind == "vq" else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]
)
@torch.no_grad()
def test_our_artefact_and_the_owner_s_folder_hold_the_same(kind: str, tmp_path: Path) -> None:
    model = load(written(tmp_path / "theirs", kind))
    given = load_file(fixture(kind) / "io.safetensors")
    pixels = convert(given["in.image.1"], UNIT, "imagenet")
    own = load(model.save(tmp_path / "own"))
    assert own.config is not None and own.config.fingerprint == fingerprint(model)
    TiTokFormat().write(own, tmp_path / "again")
    theirs, again = (load_file(p / "model.safetensors") for p in (fixture(kind), tmp_path / "again"))
    assert theirs.keys() == again.keys()
    assert all(torch.equal(theirs[name], again[name]) for name in theirs)
    encoded = model.encode(pixels)
    for other in (own, load(tmp_path / "again")):
        assert torch.equal(other.encode(pixels).latent, encoded.latent)
        assert torch.equal(other.decode(encoded.latent).sample, model.decode(encoded.latent).sample)
    assert "tokens without places in the image" in (tmp_path / "own" / "README.md").read_text()


def test_its_codes_go_to_files_and_back(tmp_path: Path) -> None:
    folder, part = written(tmp_path, "vq"), '{ use = "samples", split = "val", part = [0.0, 0.01] }'
    encode = ["encode", str(folder), "--source", part, "-o", str(tmp_path / "latents")]
    for command in (
        encode,
        ["decode", str(folder), str(tmp_path / "latents"), "-o", str(tmp_path / "images")],
    ):
        result = CliRunner().invoke(main, command)
        assert result.exit_code == 0, result.output
    tensors = load_file(tmp_path / "latents" / "latents-00000.safetensors")
    model = load(folder)
    with torch.no_grad():
        expected = model.decode_indices(tensors["indices"][:1].long()).sample
        own = model.decode(tensors["latents"][:1]).sample
    assert tensors["indices"].shape[2] == 1 and tensors["indices_flip"].shape == tensors["indices"].shape
    assert torch.allclose(own, expected, atol=1e-4)
    assert len(list((tmp_path / "images").iterdir())) == len(tensors["indices"])


@pytest.mark.slow
def test_eval_measures_it(tmp_path: Path) -> None:
    folder = written(tmp_path, "vq")
    arguments = ["eval", str(folder), "--source", '{ use = "samples", split = "val" }', "--limit", "4"]
    chosen = [word for name in ("reconstruction", "codebook") for word in ("--evaluator", name)]
    result = CliRunner().invoke(main, [*arguments, *chosen])
    assert result.exit_code == 0, result.output
    assert "psnr" in result.output and "usage_0" in result.output
