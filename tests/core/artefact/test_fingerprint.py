"""The fingerprint of a tokenizer: what changes it, what does not, and what is refused by it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pydantic import Field

from tests.core.toy_tokenizer import EncoderConfig, toy_config, toy_plugins, toy_tokenizer
from vtp_core import Tokenizer, load
from vtp_core.artefact.config import read_config
from vtp_core.artefact.fingerprint import (
    TokenizerName,
    fingerprint,
    name_of,
    networks_fingerprint,
    require_same,
    with_statistics,
)
from vtp_core.artefact.folder import write_artefact
from vtp_core.errors import CheckpointError

STATISTICS = {"latents_mean": (0.0,) * 48, "latents_std": (1.5,) * 48}


@pytest.fixture
def tokenizer() -> Tokenizer:
    torch.manual_seed(0)
    return toy_tokenizer()


def test_it_is_the_hash_of_weights_and_settings(tokenizer: Tokenizer) -> None:
    """The formula, written out: of every tensor its name, type, shape and bytes, in order of the names."""
    digest = hashlib.sha256()
    for part, module in (("encoder", tokenizer.encoder), ("bottleneck", tokenizer.bottleneck)):
        digest.update(json.dumps([part, {"use": "toy"}]).encode())
        for name, tensor in sorted(module.state_dict().items()):
            kind = {"scale": "float32", "noise": "float32", "seen": "int64"}[name]
            digest.update(json.dumps([name, f"torch.{kind}", list(tensor.shape)]).encode())
            digest.update(tensor.numpy().tobytes())
    assert fingerprint(tokenizer) == digest.hexdigest()[:16]
    assert tokenizer.config is not None
    with_numbers = tokenizer.config.model_copy(update=STATISTICS)
    numbers = hashlib.sha256(json.dumps([[0.0] * 48, [1.5] * 48, 1.0]).encode()).hexdigest()
    assert with_statistics("0" * 16, with_numbers) == f"{'0' * 16}-{numbers[:8]}"


def change(part: str, name: str) -> Callable[[Tokenizer], object]:
    return lambda tokenizer: getattr(tokenizer, part).state_dict()[name].view(-1)[0].add_(1)


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        (change("encoder", "noise"), False),
        (change("bottleneck", "seen"), False),
        (lambda t: setattr(t.encoder, "table", EncoderConfig(scale=2.0)), False),
        (change("decoder", "gain"), True),
    ],
)
def test_it_follows_what_latents_depend_on(
    tokenizer: Tokenizer, changed: Callable[[Tokenizer], object], same: bool
) -> None:
    before = fingerprint(tokenizer)
    changed(tokenizer)
    assert (fingerprint(tokenizer) == before) is same


def test_a_key_that_a_later_version_adds_leaves_it(tokenizer: Tokenizer) -> None:
    class Later(EncoderConfig):
        added: str = Field(default="none")

    before = fingerprint(tokenizer)
    tokenizer.encoder.table = Later()
    assert fingerprint(tokenizer) == before
    tokenizer.encoder.table = Later(added="something")
    assert fingerprint(tokenizer) != before


@pytest.mark.parametrize("storage", ["full", "bfloat16", "int8"])
def test_an_artefact_states_that_of_its_stored_weights(
    tokenizer: Tokenizer, storage: str, tmp_path: Path
) -> None:
    write_artefact(tokenizer, tmp_path / "a", storage)  # type: ignore[arg-type]
    read = load(tmp_path / "a", plugins=toy_plugins())
    assert read.config is not None and read.config.fingerprint == fingerprint(read)
    assert (read.config.fingerprint == fingerprint(tokenizer)) is (storage != "bfloat16")
    read.config = read.config.model_copy(update={"fingerprint": None})  # as in a file of an older version
    assert name_of(read, "it") == TokenizerName(name="it", fingerprint=fingerprint(read))


def test_another_tokenizer_is_refused_by_name() -> None:
    one, other = (TokenizerName(name=name, fingerprint=f"{digit * 16}-ab") for name, digit in ("a1", "b2"))
    require_same("latents", one, TokenizerName(name="tuned", fingerprint="1" * 16))
    message = rf"latents belongs to the tokenizer a \({'1' * 16}-ab\); b \({'2' * 16}-ab\) makes other"
    with pytest.raises(CheckpointError, match=message):
        require_same("latents", one, other)
    with pytest.raises(CheckpointError, match="has other latent statistics"):
        require_same("latents", one, TokenizerName(name="b", fingerprint="1" * 16), normalized=True)


def test_a_generator_of_another_tokenizer_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    config = toy_config()
    heads = {"words": config.heads["words"].model_copy(update={"exports": {"generate": "text_head"}})}
    tokenizer.config = config.model_copy(update={"heads": heads})
    tokenizer.exports = torch.nn.ModuleDict({"generate": tokenizer.exports["embed_text"]})
    folder = tokenizer.save(tmp_path / "a")
    head = read_config(folder).heads["words"]
    assert head.tokenizer == TokenizerName(name="toy", fingerprint=fingerprint(tokenizer))
    raw = json.loads((folder / "config.json").read_text())
    raw["heads"]["words"]["tokenizer"] = {"name": "another", "fingerprint": "0" * 16}
    (folder / "config.json").write_text(json.dumps(raw))
    with pytest.raises(CheckpointError, match=r"heads/words belongs to the tokenizer another \(0{16}\)"):
        load(folder, plugins=toy_plugins())


def test_weights_on_another_type_are_other_weights(tokenizer: Tokenizer) -> None:
    half = networks_fingerprint(tokenizer.encoder.bfloat16(), tokenizer.bottleneck)
    assert half != networks_fingerprint(tokenizer.encoder.float(), tokenizer.bottleneck)
