"""What is missing, foreign, misshapen, damaged or hostile is refused in one line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.pickled_code import PickledCode
from tests.plugins.diffusers.making import drawn, flux2, kl, rae
from vtp_core import load
from vtp_core.errors import CheckpointError, UsageError, VtpError

pytestmark = pytest.mark.slow  # importing diffusers takes seconds
FILE = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("kl")
    drawn(kl).save_pretrained(path)
    return path


def copied(folder: Path, to: Path, weights: Mapping[str, Tensor] | None = None, **settings: Any) -> Path:
    """A copy with other weights and settings; a setting of None is left out."""
    to.mkdir(exist_ok=True)
    config = json.loads((folder / "config.json").read_text()) | settings
    (to / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    save_file(dict(load_file(folder / FILE) if weights is None else weights), to / FILE)
    return to


def refused(folder: Path, *words: str, error: type[VtpError] = CheckpointError) -> None:
    with pytest.raises(error) as caught:
        load(folder)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


def test_weights_of_another_model(folder: Path, tmp_path: Path) -> None:
    state = load_file(folder / FILE)
    lacking = {name: value for name, value in state.items() if name != "quant_conv.bias"}
    refused(copied(folder, tmp_path, lacking), FILE, "missing quant_conv.bias", "unexpected nothing")
    refused(copied(folder, tmp_path, {**state, "loss.logvar": torch.zeros(1)}), "unexpected loss.logvar")
    misshapen = {**state, "quant_conv.bias": torch.zeros(7)}
    refused(copied(folder, tmp_path, misshapen), "quant_conv.bias is torch.float32 [7]", "[8]")
    whole = {**state, "quant_conv.bias": torch.zeros(8, dtype=torch.int64)}
    refused(copied(folder, tmp_path, whole), "quant_conv.bias is torch.int64")
    broken = {**state, "decoder.conv_out.bias": torch.full((3,), torch.nan)}
    refused(copied(folder, tmp_path, broken), "decoder.conv_out.bias is not finite")
    (copied(folder, tmp_path) / FILE).write_bytes((folder / FILE).read_bytes()[:-5])
    refused(tmp_path, FILE)
    (tmp_path / FILE).unlink()
    refused(tmp_path, "no diffusion_pytorch_model.safetensors")


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"_class_name": "AutoencoderKLWan"}, "AutoencoderKLWan is not read here"),
        ({"_class_name": "../evil"}, "../evil is not read here"),
        ({"wavelets": 3}, "wavelets is a setting"),
        ({"in_channels": 4}, "in_channels is 4"),
        ({"latent_channels": "4"}, "latent_channels is '4'"),
        ({"latent_channels": 1 << 20}, "1048576 channels"),
        ({"scaling_factor": 0}, "scaling_factor is 0.0"),
        ({"latents_mean": [0.0] * 4}, "come together"),
        ({"latents_mean": [0.0] * 3, "latents_std": [1.0] * 3}, "3 values for 4 channels"),
        ({"latents_mean": [0.0] * 4, "latents_std": [0.0] * 4}, "above 0"),
        ({"latents_mean": [0.0] * 4, "latents_std": [1.0] * 4, "shift_factor": 1.0}, "both shift_factor"),
        ({"block_out_channels": 5}, "levels"),
        ({"block_out_channels": [8, 1 << 20]}, "GiB at most"),
        ({"layers_per_block": 100_000}, "config.json"),
        ({"down_block_types": ["NoBlock", "NoBlock"]}, "NoBlock"),
        ({"block_out_channels": [8, 16, 16]}, "config.json"),
    ],
)
def test_settings_that_mean_nothing_here(
    folder: Path, tmp_path: Path, settings: dict[str, Any], word: str
) -> None:
    refused(copied(folder, tmp_path, **settings), "config.json", word)


def test_nothing_is_executed(folder: Path, tmp_path: Path) -> None:
    """A pickle with code, a shard outside of the folder, a module that `auto_map` names."""

    copied(folder, tmp_path, auto_map=None, _auto_map={"AutoModel": "evil.Model"})
    (tmp_path / "evil.py").write_text("raise SystemExit")
    assert load(tmp_path).latent_channels == 4
    (tmp_path / FILE).unlink()
    torch.save({"conv": PickledCode(tmp_path / "run")}, tmp_path / "diffusion_pytorch_model.bin")
    refused(tmp_path, "diffusion_pytorch_model.bin", "plain tensors", error=UsageError)
    assert not (tmp_path / "run").exists()
    for name in ("../kl/x.safetensors", "/etc/passwd", 3):
        text = json.dumps({"weight_map": {"quant_conv.bias": name}})
        (tmp_path / f"{FILE}.index.json").write_text(text)
        refused(tmp_path, "no safetensors files of this folder")
    (tmp_path / f"{FILE}.index.json").unlink()
    for variant in ("fp16", "bf16"):
        save_file({}, tmp_path / f"diffusion_pytorch_model.{variant}.safetensors")
    refused(tmp_path, "none without variant")


def test_statistics_of_batch_norm(tmp_path: Path) -> None:
    model = drawn(flux2)
    model.save_pretrained(tmp_path)
    state = load_file(tmp_path / FILE)
    negative = {**state, "bn.running_var": -torch.ones(16)}
    refused(copied(tmp_path, tmp_path, negative), "no statistics of 16 channels")
    lacking = {name: value for name, value in state.items() if name != "bn.running_mean"}
    refused(copied(tmp_path, tmp_path, lacking), "missing bn.running_mean")


def test_sizes_that_a_network_does_not_take(tmp_path: Path) -> None:
    drawn(rae).save_pretrained(tmp_path)
    tokenizer = load(tmp_path)
    assert tokenizer.encoder.only_size == (8, 8)
    with pytest.raises(UsageError, match="takes 8 x 8 pixels, not 16 x 8"):
        tokenizer.encode(torch.zeros(1, 3, 16, 8))
    with pytest.raises(UsageError, match="makes 8 x 8 pixels only"):
        tokenizer.decode(torch.zeros(1, 64, 3, 3))
    refused(copied(tmp_path, tmp_path, image_size=16), "2 positions of 4 pixels are 8")
    refused(copied(tmp_path, tmp_path, image_size=None, encoder_type="clip"), "clip")
    refused(copied(tmp_path, tmp_path, reshape_to_2d=False), "reshape_to_2d is false")


def test_siglip_does_not_fit_this_transformers(tmp_path: Path) -> None:
    """diffusers 0.42 builds it as transformers 4 laid it out."""
    drawn(rae).save_pretrained(tmp_path)
    folder = copied(tmp_path, tmp_path, encoder_type="siglip2")
    with pytest.raises(VtpError, match="does not fit the installed transformers"):
        load(folder)
