"""Tokenizers of the plugin `rae` as diffusers' AutoencoderRAE."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

import vtp_core
from tests.agreement import Agreement
from vtp_core import load
from vtp_core.artefact.assembly import assemble
from vtp_core.artefact.config import ArtefactConfig
from vtp_core.pixels import UNIT, convert
from vtp_core.plugins import load_plugins
from vtp_core.tokenizer import Tokenizer
from vtp_plugins.diffusers.export_rae import NATIVE
from vtp_plugins.diffusers.format import DiffusersFormat

pytestmark = pytest.mark.slow


def made(family: str, **changes: Any) -> Tokenizer:
    """One layer of width 64 with drawn weights, and the positions that diffusers computes for its grid."""
    side, eps, hidden = NATIVE[family]
    encoder = {"use": "rae", "family": family, "width": 64, "depth": 1, "heads": 1, "patch": 4}
    encoder |= {
        "hidden": hidden or 256,
        "input_size": 28,
        "native_patch": 14,
        "positions": side // 14,
        "eps": eps,
        **changes,
    }
    decoder = {"use": "rae", "width": 32, "depth": 1, "heads": 2, "hidden": 48, "grid": 2}
    config = ArtefactConfig(
        vtp_version=vtp_core.__version__,
        encoder=encoder,
        bottleneck={"use": "rae", "grid": 2},
        decoder=decoder,
        image_size=8,
    )
    torch.manual_seed(0)
    found = assemble(config, load_plugins())
    for weight in found.parameters():
        weight.normal_(std=0.2)
    mean, var = torch.randn(64, 2, 2), torch.rand(64, 2, 2) + 0.1
    for part in (found.bottleneck, found.decoder):
        part.mean.copy_(mean)
        part.var.copy_(var)
    helper = diffusers.models.embeddings.get_2d_sincos_pos_embed
    found.decoder.positions.copy_(helper(32, 2, cls_token=True, extra_tokens=1, output_type="pt")[None])
    return found


def unit() -> Tensor:
    return torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.agrees("export of `rae` as AutoencoderRAE", "diffusers", 1e-5)
@pytest.mark.parametrize("family", ["dinov2", "mae"])
def test_rae_becomes_autoencoder_rae(family: str, tmp_path: Path, agreement: Agreement) -> None:
    tokenizer = made(family)
    DiffusersFormat().write(tokenizer, tmp_path / "out")
    model, info = diffusers.AutoencoderRAE.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    latent = tokenizer.encode(convert(unit(), UNIT, "imagenet")).latent
    agreement(latent, model.encode(unit()).latent)
    agreement(convert(tokenizer.decode(latent).sample, "imagenet", UNIT), model.decode(latent).sample)
    back = load(tmp_path / "out")
    agreement(back.encode(convert(unit(), UNIT, "imagenet")).latent, latent)


def test_what_the_class_can_not_hold_is_an_autoencoder_vtp(tmp_path: Path) -> None:
    moved = made("dinov2")
    moved.decoder.positions[0, 1, 0] += 0.5
    other = made("dinov2")
    other.decoder.mean += 1
    cases = {
        "stored positions": moved,
        "different statistics": other,
        "has hidden = 128": made("dinov2", hidden=128),
    }
    for number, (words, tokenizer) in enumerate(cases.items()):
        folder = tmp_path / str(number)
        with pytest.warns(UserWarning, match=words):
            DiffusersFormat().write(tokenizer, folder)
        assert json.loads((folder / "config.json").read_text())["_class_name"] == "AutoencoderVTP"
        pixels = convert(unit(), UNIT, "imagenet")
        assert torch.equal(load(folder).encode(pixels).latent, tokenizer.encode(pixels).latent)
