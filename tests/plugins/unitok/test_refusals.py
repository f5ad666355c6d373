"""What is no UniTok is refused in one line; a pickle with code runs nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.pickled_code import PickledCode
from tests.plugins.unitok.published import FIXTURE, Change, checkpoint, unpacked
from vtp_core import load
from vtp_core.errors import CheckpointError, UsageError
from vtp_core.testing import tiny_tokenizer
from vtp_plugins.unitok.format import UniTokFormat


def drop(name: str) -> Change:
    return lambda settings, state: state.pop(name)


def put(name: str, *shape: int, value: float = 0.0) -> Change:
    return lambda settings, state: state.update({name: torch.full(shape, value)})


def say(**keys: object) -> Change:
    return lambda settings, state: settings.update(keys)


def forget(key: str) -> Change:
    return lambda settings, state: settings.pop(key)


BAD: dict[str, tuple[Change, str]] = {
    "missing": (drop("encoder.blocks.1.mlp.w2.bias"), r"missing encoder\.blocks\.1\.mlp\.w2\.bias"),
    "missing stage": (drop("decoder.up_conv3.0.conv3_1x1.weight"), r"missing decoder\.up_conv3\.0"),
    "missing book": (drop("quantizer.codebooks.3.codebook.weight"), r"missing quantizer\.codebooks\.3"),
    "foreign": (put("quantizer.codebooks.4.codebook.weight", 32, 4), r"unexpected quantizer\.codebooks\.4"),
    "misshapen": (put("encoder.pos_embed", 1, 16, 48), r"encoder\.pos_embed is .*\[1, 16, 48\]"),
    "not finite": (put("decoder.norm.bias", 48, value=float("inf")), r"decoder\.norm\.bias is not finite"),
    "books": (say(num_codebooks=2), r"missing nothing; unexpected quantizer\.codebooks\.2"),
    "books that do not divide": (say(num_codebooks=3), "do not divide into num_codebooks = 3"),
    "codes": (say(vocab_size=64), r"codebook\.weight is .*\[32, 4\].* needs .*\[16, 4\]"),
    "channels": (say(vocab_width=20), "width 48 is no multiple of vocab_width 20"),
    "another size": (say(model="vitamin_small"), "its encoder is 48 wide, which is not 'vitamin_small'"),
    "no heads": (forget("num_heads"), "'vitamin_tiny' is none of .*: add num_heads to args"),
    "no key": (forget("vocab_width"), r"vocab_width: Field required"),
    "linear": (say(quant_proj="linear"), r"quant_proj: Input should be 'attn'"),
    "queries": (say(num_query=256), r"num_query"),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD.keys())
def test_one_line_names_it(change: Change, message: str, tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "unitok_tokenizer.pth", change)
    with pytest.raises(CheckpointError, match=message) as caught:
        load(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_a_pickle_with_code_runs_nothing(tmp_path: Path) -> None:
    state = {"quant_proj.attn.zero_k_bias": torch.zeros(2)}
    torch.save(
        {"args": PickledCode(tmp_path / "executed"), "trainer": {"unitok": state}},
        tmp_path / "unitok_tokenizer.pth",
    )
    with pytest.raises(CheckpointError, match="no installed format reads this file"):
        load(tmp_path / "unitok_tokenizer.pth")
    assert not (tmp_path / "executed").exists()


def test_tensors_without_settings(tmp_path: Path) -> None:
    folder = unpacked(tmp_path)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match="a UniTok without its settings"):
        load(folder)
    torch.save({"trainer": {"unitok": torch.load(checkpoint(tmp_path / "a.pth"))["trainer"]["unitok"]}},
               tmp_path / "b.pth")  # fmt: skip
    with pytest.raises(CheckpointError, match="no table 'args' in it"):
        load(tmp_path / "b.pth")


def test_it_is_only_read(tmp_path: Path) -> None:
    assert UniTokFormat().matches(FIXTURE)
    with pytest.raises(UsageError, match="format unitok: is only read"):
        UniTokFormat().write(tiny_tokenizer(), tmp_path / "out")
