"""What is no TiTok is refused in one line that names the tensor or the key."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.plugins.titok.published import written
from vtp_core import load
from vtp_core.artefact.config import is_export
from vtp_core.errors import CheckpointError, UsageError
from vtp_core.testing import tiny_tokenizer
from vtp_plugins.pretrained import published
from vtp_plugins.titok import reader as titok
from vtp_plugins.titok.format import TiTokFormat
from vtp_plugins.unitok import reader as unitok

Change = Callable[[dict[str, Any], dict[str, Tensor]], object]


def drop(name: str) -> Change:
    return lambda config, state: state.pop(name)


def put(name: str, *shape: int, value: float = 0.0) -> Change:
    return lambda config, state: state.update({name: torch.full(shape, value)})


def say(**keys: object) -> Change:
    return lambda config, state: config["model"]["vq_model"].update(keys)


def forget(key: str) -> Change:
    return lambda config, state: config["model"]["vq_model"].pop(key)


BAD: dict[str, tuple[str, Change, str]] = {
    "missing": ("vq", drop("encoder.ln_post.bias"), r"missing encoder\.ln_post\.bias"),
    "missing codes": ("vq", drop("quantize.embedding.weight"), r"missing quantize\.embedding\.weight"),
    "foreign": ("vae", put("quantize.embedding.weight", 4, 8), r"unexpected quantize\.embedding\.weight"),
    "misshapen": ("vq", put("decoder.mask_token", 1, 1, 33), r"decoder\.mask_token is .*\[1, 1, 33\]"),
    "not finite": (
        "vae",
        put("decoder.ln_post.bias", 32, value=float("nan")),
        "ln_post.bias is not finite",
    ),
    "no pixel codes": ("legacy", drop("pixel_quantize.embedding.weight"), r"missing pixel_quantize\."),
    "no shortcut": ("legacy", drop("pixel_decoder.up.3.block.0.nin_shortcut.weight"), "missing .*nin_shortc"),
    "a level less": ("legacy", drop("pixel_decoder.up.4.block.0.conv1.weight"), r"missing pixel_decoder\.up"),
    "owner's size": ("vq", say(vit_enc_model_size="base"), "2 blocks of width 32, which is not 'base'"),
    "unknown size": ("vq", forget("vit_dec_num_heads"), "add vit_dec_num_heads"),
    "other heads": ("vq", say(vit_enc_num_heads=5), "width 32 is no multiple of heads 5"),
    "tokens": ("vae", say(num_latent_tokens=9), r"latent_token\w* is .* needs .*\[9, 32\]"),
    "a size that fills the memory": ("vae", say(num_latent_tokens=65536), r"needs .*\[65536, 32\]"),
    "patch": ("vq", say(vit_dec_patch_size=8), r"decoder\.ffn\.0\.\w+ is |decoder\.positional_embedding is "),
    "no key": ("vq", forget("use_l2_norm"), "codebook_size and use_l2_norm are needed"),
    "no token size": ("vq", forget("token_size"), r"vq_model\.token_size: Field required"),
    "first stage": ("legacy", say(finetune_decoder=False), "makes codes of another tokenizer, not pixels"),
    "unknown": ("vq", say(is_legacy=True), "is_legacy = True with finetune_decoder = False"),
    "other latent": ("vq", say(quantize_mode="softvq"), r"vq_model\.quantize_mode"),
}


@pytest.mark.parametrize(("kind", "change", "message"), BAD.values(), ids=BAD.keys())
def test_one_line_names_it(kind: str, change: Change, message: str, tmp_path: Path) -> None:
    folder = written(tmp_path, kind, change)
    with pytest.raises(CheckpointError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


def test_weights_alone(tmp_path: Path) -> None:
    folder = written(tmp_path, "vq")
    assert load(folder / "model.safetensors").config.image_size == 64
    (folder / "config.json").unlink()
    for path in (folder, folder / "model.safetensors"):
        with pytest.raises(CheckpointError, match="a TiTok without its configuration"):
            load(path)


def test_other_folders_are_not_replaced(tmp_path: Path) -> None:
    folder = written(tmp_path / "theirs", "vae")
    model, before = load(folder), (folder / "model.safetensors").read_bytes()
    for _ in range(2):  # the second time, the published folder lacks its configuration
        with pytest.raises(UsageError, match="choose another folder"):
            TiTokFormat().write(model, folder)
        assert (folder / "model.safetensors").read_bytes() == before
        (folder / "config.json").unlink(missing_ok=True)
    for _ in range(2):
        TiTokFormat().write(model, tmp_path / "own")
    assert is_export(tmp_path / "own") and is_export(tmp_path / "own/model.safetensors")
    (tmp_path / "own/notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"holds notes\.txt, which would be lost"):
        TiTokFormat().write(model, tmp_path / "own")


def test_a_folder_of_many_files_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(*_: object) -> set[str]:
        raise AssertionError("opened")

    for number in range(40):
        (tmp_path / f"{number}.safetensors").write_bytes(b"")
    monkeypatch.setattr(published, "tensor_names", opened)
    assert titok.find_files(tmp_path) is None and unitok.find_files(tmp_path) is None


def test_other_sizes_of_images(tmp_path: Path) -> None:
    model = load(written(tmp_path, "vae"))
    for size in ((64, 80), (128, 128)):
        with pytest.raises(UsageError, match=f"fixed for 64 x 64 pixels, got {size[0]} x {size[1]}; crop"):
            model.encode(torch.zeros(1, 3, *size))
    assert "64 x 64 pixels, no others" in repr(model) and "8 x 1 x 8" in repr(model)


def test_tokenizers_that_the_layout_can_t_hold(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="encoder and decoder are not both `titok`"):
        TiTokFormat().write(tiny_tokenizer(), tmp_path / "out")
    assert not (tmp_path / "out").exists()
