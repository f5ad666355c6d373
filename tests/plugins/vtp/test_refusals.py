"""Folders that are no published model: one line that names the key."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.plugins.vtp.making import SMALL, draw, write
from vtp_core import load
from vtp_core.errors import CheckpointError, UsageError, VtpError
from vtp_plugins.vtp import VTPConfig, VTPModel

Change = Callable[[dict[str, Any], dict[str, Tensor]], object]


def drop(name: str) -> Change:
    return lambda config, state: state.pop(name)


def add(name: str) -> Change:
    return lambda config, state: state.update({name: torch.zeros(2)})


def say(key: str, value: object) -> Change:
    return lambda config, state: config.update({key: value})


BAD: dict[str, tuple[Change, str]] = {
    "missing": (drop("trunk.blocks.1.norm2.weight"), "missing trunk.blocks.1.norm2.weight"),
    "missing text": (drop("text_projection"), "missing text_projection"),
    "unexpected": (add("teacher_trunk.cls_token"), "unexpected teacher_trunk.cls_token"),
    "shape": (say("text_context_length", 8), r"positional_embedding is .*\[7, 12\].* needs .*\[8, 12\]"),
    "hidden width": (say("vision_mlp_ratio", 8.0), r"trunk\.blocks\.0\.mlp\.w1\..* is "),
    "norm": (say("vision_norm_layer", "layernorm"), r"missing trunk\.blocks\.0\.norm1\.bias"),
    "other feed-forward": (say("decoder_ffn_layer", "mlp"), r"missing pixel_decoder\.blocks\.0\.mlp\.fc1"),
    "LayerScale": (say("vision_init_values", 0.1), r"missing trunk\.blocks\.0\.ls1\.gamma"),
    "no text": (say("train_clip", False), "unexpected ln_final.bias"),
    "unknown value": (say("vision_norm_layer", "batchnorm"), "vision_norm_layer"),
    "unknown option": (say("vision_registers", 4), "vision_registers is an option that"),
    "wrong type": (say("vision_depth", "many"), "vision_depth"),
    "negative": (say("text_embed_dim", -3), "text_embed_dim"),
    "heads": (say("vision_num_heads", 5), "vision_embed_dim 24 must be a multiple of 4 x vision_num_heads 5"),
    "a width that fills the memory": (say("vision_embed_dim", 65536), "trunk.* is "),
    "no encoder": (say("vision_depth", 0), "vision_depth"),
    "no decoder": (say("decoder_depth", 0), "decoder_depth"),
    "no text tower": (say("text_depth", 0), "text_depth"),
    "a depth that never ends": (say("vision_depth", 10**9), "vision_depth"),
    "an artefact's table": (say("encoder", {"use": "vit"}), ""),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD.keys())
def test_the_key_is_named(change: Change, message: str, tmp_path: Path) -> None:
    config = dict(SMALL)
    state = draw(config)
    change(config, state)
    folder = write(tmp_path, config, state)
    if not message:  # a key that means nothing here is kept
        assert load(folder).config.encoder["width"] == 24
        return
    with pytest.raises(CheckpointError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


def test_weights_that_are_not_finite(tmp_path: Path) -> None:
    state = draw(SMALL)
    state["trunk.cls_token"].view(-1)[0] = torch.inf
    folder = write(tmp_path, SMALL, state)
    for read in (load, VTPModel.from_pretrained):
        with pytest.raises(CheckpointError, match=r"its weight encoder\.cls_token is not finite"):
            read(folder)


def test_damaged_files(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", SMALL, draw(SMALL))
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="missing"):
        load(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not JSON"):
        VTPModel.from_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(CheckpointError, match="model_type is 'clip'"):
        VTPConfig.from_pretrained(folder)
    with pytest.raises(CheckpointError, match="not an artefact"):
        load(folder)


def test_other_periods_are_refused_only_by_the_float32_option(tmp_path: Path) -> None:
    state = draw(SMALL)
    state["trunk.rope_embed.periods"] *= 2
    folder = write(tmp_path, SMALL, state)
    with pytest.raises(CheckpointError, match=r"trunk\.rope_embed\.periods are not those of base 100"):
        VTPModel.from_pretrained(folder, rope_dtype="float32")
    assert torch.equal(load(folder).encoder.rope_embed.periods, state["trunk.rope_embed.periods"])


def test_a_folder_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        VTPModel.from_pretrained(tmp_path / "nothing")
    monkeypatch.chdir(tmp_path)

    def offline(name: str, **options: object) -> str:
        raise ConnectionError("no network")

    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(UsageError, match=r"the Hub repository could not be downloaded \(ConnectionError\)"):
        VTPModel.from_pretrained("MiniMaxAI/VTP-Large-f16d64")
    folder = write(tmp_path / "cached", SMALL, draw(SMALL))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **options: str(folder))
    assert VTPModel.from_pretrained("MiniMaxAI/VTP-Tiny").config.vision_embed_dim == 24


def test_keys_of_transformers_are_kept_and_weights_types_follow(tmp_path: Path) -> None:
    config = {**SMALL, "transformers_version": "4.57.1", "torch_dtype": "bfloat16", "auto_map": {"A": "b"}}
    folder = write(tmp_path / "a", config, {k: v.bfloat16() for k, v in draw(SMALL).items()})
    model = load(folder)
    assert model.encoder.mask_token.dtype == torch.float32
    model.save_pretrained(tmp_path / "b")  # type: ignore[operator]
    written = json.loads((tmp_path / "b" / "config.json").read_text())
    assert written["transformers_version"] == "4.57.1" and written["auto_map"] == {"A": "b"}
    assert written["dtype"] == "float32" and "torch_dtype" not in written
    assert written["architectures"] == ["VTPModel"]


def test_tables_can_t_be_given() -> None:
    with pytest.raises(ValueError, match="encoder follows from the published keys"):
        VTPConfig(encoder={"use": "vit"})


def test_what_our_artefact_can_t_hold(tmp_path: Path) -> None:
    options = {key: value for key, value in SMALL.items() if key != "model_type"}
    for changes, name in (({"text_pool_type": "none"}, "pool"), ({"init_logit_bias": -1.0}, "logit_bias")):
        with pytest.raises(VtpError, match=f"{name}.*no place in our artefact"):
            VTPModel(VTPConfig(**{**options, **changes})).save(tmp_path / "x")
        assert not list(tmp_path.iterdir())


def test_other_folders_are_not_overwritten(tmp_path: Path) -> None:
    model = load(write(tmp_path / "a", SMALL, draw(SMALL)))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="something other than a tokenizer"):
        model.save_pretrained(tmp_path / "photos")  # type: ignore[operator]
    model.save_pretrained(tmp_path / "a")  # type: ignore[operator]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["config.json", "model.safetensors"]
    (tmp_path / "a/training.log").write_text("mine")
    with pytest.raises(UsageError, match=r"holds training\.log, which would be lost"):
        model.save_pretrained(tmp_path / "a")  # type: ignore[operator]
