"""What is no RAE that this reader knows is refused in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from vtp_core import load
from vtp_core.errors import CheckpointError, UsageError
from vtp_plugins.rae.format import RaeFormat

FOLDER = Path(__file__).parents[2] / "data" / "rae_tiny_dinov2"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return shutil.copytree(FOLDER, tmp_path / "rae")


def refused(folder: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "name", "value", "message"),
    [
        (
            "encoder/model.safetensors",
            "encoder.layer.1.mlp.fc2.bias",
            None,
            r"missing encoder\.layer\.1\.mlp",
        ),
        ("encoder/model.safetensors", "encoder.layer.2.norm1.bias", torch.zeros(48), "unexpected encoder"),
        ("encoder/model.safetensors", "embeddings.register_tokens", torch.zeros(1, 8, 48), r"\[1, 8, 48\]"),
        ("model.safetensors", "decoder_pos_embed", torch.zeros(1, 26, 48), r"decoder_pos_embed is .*26, 48"),
        (
            "model.safetensors",
            "decoder_norm.bias",
            torch.full((48,), torch.nan),
            "decoder.norm.bias is not finite",
        ),
        ("model.safetensors", "encoder.x", torch.zeros(1), r"unexpected encoder\.x"),
        ("stat.safetensors", "var", None, "missing var"),
        ("stat.safetensors", "var", torch.full((48, 4, 4), -1.0), "var is negative"),
        ("stat.safetensors", "mean", torch.zeros(48), r"mean is torch\.float32 \[48\]"),
    ],
)
def test_tensors(folder: Path, file: str, name: str, value: torch.Tensor | None, message: str) -> None:
    state = load_file(folder / file)
    state.pop(name, None)
    if value is not None:
        state[name] = value
    save_file(state, folder / file)
    refused(folder, message)


def stage(key: str, value: object) -> Callable[[dict[str, Any]], None]:
    return lambda raw: raw["stage_1"]["params"].__setitem__(key, value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (stage("encoder_name", "dinov3mls-vit-l16[layers=11]"), "encoder_name is a key of RAEv2"),
        (stage("encoder_cls", "CLIPwNorm"), "encoder_cls: .*reads no such model"),
        (stage("encoder_cls", "MAEwNorm"), "model_type is 'dinov2_with_registers'; MAEwNorm takes 'vit_mae'"),
        (stage("encoder_params", {"dinov2_path": "encoder", "normalize": False}), "normalize"),
        (stage("encoder_params", {"num_tokens": 9}), "num_tokens is 9, the sizes make 16"),
        (stage("reshape_to_2d", False), "reshape_to_2d"),
        (stage("encoder_input_size", 57), "57 is no multiple of the patch 14"),
        (stage("surprise", 1), "surprise"),
        (
            stage("pretrained_decoder_path", "models/model.pt"),
            r"models/model\.pt, which its configuration names",
        ),
        (stage("encoder_params", {"dinov2_path": "facebook/none"}), None),
    ],
)
def test_configurations(
    folder: Path,
    change: Callable[[dict[str, Any]], None],
    message: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    raw = json.loads((folder / "config.json").read_text())
    change(raw)
    if message is None:
        message = "encoder facebook/none is not here; download it: `hf download facebook/none --local-dir"
        (folder / "encoder").rename(folder / "elsewhere")
        raw["stage_1"]["params"]["encoder_config_path"] = "elsewhere"
    (folder / "config.json").write_text(json.dumps(raw))
    refused(folder, message)


@pytest.mark.parametrize(
    ("file", "key", "value", "message"),
    [
        ("encoder/config.json", "use_swiglu_ffn", True, "use_swiglu_ffn"),
        ("encoder/config.json", "num_register_tokens", 0, "num_register_tokens"),
        ("encoder/config.json", "hidden_act", "relu", "hidden_act"),
        ("encoder/config.json", "num_attention_heads", 5, "48 is no multiple of heads 5"),
        ("encoder/preprocessor_config.json", "image_std", [0.2, 0.2], "image_std"),
        ("decoder/config.json", "decoder_num_hidden_layers", None, "decoder_num_hidden_layers"),
    ],
)
def test_settings_of_the_networks(folder: Path, file: str, key: str, value: object, message: str) -> None:
    raw = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**raw, key: value}))
    refused(folder, message)


def test_folders(folder: Path, tmp_path: Path) -> None:
    (folder / "encoder" / "model.safetensors").unlink()
    refused(folder, r"no model\.safetensors and no pytorch_model\.bin")
    shutil.copy(folder / "config.json", folder / "other.yaml")
    assert not RaeFormat().matches(folder), "two configurations: which one?"
    assert RaeFormat().matches(folder / "other.yaml")
    assert not RaeFormat().matches(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="no configuration of RAE"):
        RaeFormat().read(folder / "decoder")
    with pytest.raises(UsageError, match="only be read"):
        RaeFormat().write(load(FOLDER), tmp_path / "out")
