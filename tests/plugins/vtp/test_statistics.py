"""Statistics of the latents: the published ones for published models, else those of the file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.plugins.vtp.making import TINY_L, L, draw, write
from vtp_core import load
from vtp_core.errors import CheckpointError, UsageError
from vtp_plugins.vtp import VTPConfig, VTPModel, statistics
from vtp_plugins.vtp.format import VtpFormat

SIZES = {"s": (384, 12, 6), "b": (768, 12, 12), "l": (1024, 24, 16)}
# Channel 0 and 63 of the owner's latents_stats.pt, as printed.
FIRST = {"s": (0.003366, 0.135055)}
LAST = {"s": (-0.175861, 0.157983)}


def config_of(folder: Path, **changes: object) -> VTPConfig:
    (folder / "config.json").write_text(json.dumps({**L, **changes}))
    return VTPConfig.from_pretrained(folder)


@pytest.mark.parametrize("model", SIZES)
def test_a_published_model_has_the_published_statistics(model: str, tmp_path: Path) -> None:
    names = ("embed_dim", "depth", "num_heads")
    parts = ("vision", "decoder")
    sizes = {f"{part}_{n}": v for part in parts for n, v in zip(names, SIZES[model], strict=True)}
    config = config_of(tmp_path, **sizes)
    assert config.latents_mean is not None and config.latents_std is not None
    assert len(config.latents_mean) == len(config.latents_std) == 64 and config.scaling_factor == 1.0
    assert f"VTP-{model.upper()}" in (config.latents_stats_protocol or "")
    if model in FIRST:
        assert (config.latents_mean[0], config.latents_std[0]) == FIRST[model]
        assert (config.latents_mean[-1], config.latents_std[-1]) == LAST[model]


@pytest.mark.parametrize(
    "changes",
    [
        {"image_size": 512},
        {"vision_embed_dim": 768, "vision_num_heads": 12},
        {"vision_feature_bottleneck": 32},
        {"decoder_depth": 12},
        {"train_reconstruction": False},
        {"latents_mean": None, "latents_std": None},
    ],
)
def test_another_model_has_none(changes: dict[str, object], tmp_path: Path) -> None:
    assert config_of(tmp_path, **changes).latents_mean is None


@torch.no_grad()
def test_the_loaded_model_uses_them(
    vtp_tiny_l: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = torch.randn(1, 3, 32, 32)
    with pytest.raises(UsageError, match="no latent statistics"):
        load(vtp_tiny_l).encode_normalized(pixels)
    # A small model in the place of VTP-L.
    monkeypatch.setattr(statistics, "SIZES", {(32, 2, 2): "l"})
    model = load(vtp_tiny_l)
    numbers = json.loads(statistics.FILE.read_text())["l"]
    mean, std = (torch.tensor(numbers[key]).view(1, 64, 1, 1) for key in ("mean", "std"))
    expected = (model.encode(pixels).latent - mean) / std
    torch.testing.assert_close(model.encode_normalized(pixels), expected)
    # Written by us it says what its statistics are, so it keeps them, and none stays none.
    VtpFormat().write(model, tmp_path / "again")
    written = VTPConfig.from_pretrained(tmp_path / "again")
    assert model.config is not None and written.latents_mean == model.config.latents_mean
    own = VTPModel(model.config.model_copy(update={name: None for name in ("latents_mean", "latents_std")}))
    own.save_pretrained(tmp_path / "own")
    assert load(tmp_path / "own").config.latents_mean is None


def test_statistics_of_another_width_are_refused(tmp_path: Path) -> None:
    config = {**TINY_L, "latents_mean": [0.0] * 3, "latents_std": [1.0] * 3}
    with pytest.raises(CheckpointError, match="latents_mean has 3 values, the latent 64 channels"):
        load(write(tmp_path, config, draw(TINY_L)))
