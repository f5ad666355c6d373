"""Folders of other projects: which reader gets which folder."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.core.toy_tokenizer import toy_plugins, toy_tokenizer
from vtp_core import load
from vtp_core.artefact.folder import replace_folder
from vtp_core.artefact.license import NOT_STATED, license_of
from vtp_core.artefact.loading import find_format
from vtp_core.errors import CheckpointError, UsageError
from vtp_core.plugins import Plugins, hookimpl
from vtp_core.plugins.hookspecs import Register
from vtp_core.tokenizer import Tokenizer


class Greedy:
    """Takes every folder with a file ``mine``, whatever else is there."""

    def matches(self, folder: Path) -> bool:
        return (folder / "mine").exists()

    def read(self, folder: Path) -> Tokenizer:
        model = toy_tokenizer(text=False)
        assert model.config is not None
        model.config = model.config.model_copy(update={"recipe": (folder / "mine").read_text()})
        return model

    def write(self, model: Tokenizer, folder: Path) -> None:
        raise NotImplementedError


@pytest.fixture
def plugins() -> Plugins:
    @hookimpl
    def register_formats(register: Register) -> None:
        register("broken", "no_such_package.format:Nothing")
        register("greedy", Greedy)

    found = toy_plugins()
    found.add(SimpleNamespace(vtp_api=2, register_formats=register_formats), "foreign")
    return found


def test_a_format_reads_what_it_matches_and_a_broken_one_is_no_obstacle(
    tmp_path: Path, plugins: Plugins
) -> None:
    (tmp_path / "mine").write_text("theirs")
    model = load(tmp_path, plugins=plugins)
    assert model.config is not None and model.config.recipe == "theirs"


def test_our_own_artefacts_are_not_offered(tmp_path: Path, plugins: Plugins) -> None:
    folder = toy_tokenizer().save(tmp_path / "own")
    (folder / "mine").write_text("theirs")
    own = load(folder, plugins=plugins)
    assert own.config is not None and own.config.recipe != "theirs"
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "format_version": 99}))
    with pytest.raises(CheckpointError, match="format_version 99"):
        load(folder, plugins=plugins)


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_not_finite_are_refused_whatever_the_format(
    tmp_path: Path, plugins: Plugins, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    for part, name in (("encoder", "encoder.noise"), ("exports", "exports.embed_text.table.weight")):
        model = toy_tokenizer()
        assert name in model.state_dict()
        with torch.no_grad():
            model.state_dict()[name].view(-1)[-1] = value
        own = model.save(tmp_path / part, storage="bfloat16")
        theirs = tmp_path / f"{part}-mine"
        theirs.mkdir()
        (theirs / "mine").write_text("theirs")
        monkeypatch.setattr(Greedy, "read", lambda self, folder, found=model: found)
        for folder in (own, theirs):
            with pytest.raises(CheckpointError) as caught:
                load(folder, plugins=plugins)
            assert str(caught.value).startswith(f"{folder}: its weight {name} is not finite; ")


def test_what_nobody_knows(tmp_path: Path, plugins: Plugins) -> None:
    with pytest.raises(CheckpointError, match="no tokenizer here"):
        load(tmp_path, plugins=plugins)
    (tmp_path / "config.json").write_text('{"model_type": "other"}')
    with pytest.raises(CheckpointError, match="not an artefact of this framework"):
        load(tmp_path, plugins=plugins)


def test_a_single_file(tmp_path: Path, plugins: Plugins) -> None:
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"cos\nsystem\n(S'false'\ntR.")  # a pickle with code
    with pytest.raises(CheckpointError, match=r"weights\.pt: no installed format reads this file"):
        load(weights, plugins=plugins)
    with pytest.raises(CheckpointError, match=r"no tokenizer here \(a file\)"):
        load(weights.rename(tmp_path / "weights.txt"), plugins=plugins)


@pytest.mark.parametrize("name", ["weights.bin", "config.json"])
def test_endings_of_files(name: str, tmp_path: Path, plugins: Plugins) -> None:
    (tmp_path / name).write_bytes(b"{}")
    with pytest.raises(CheckpointError, match=f"{name}: no installed format reads this file"):
        load(tmp_path / name, plugins=plugins)


class Licensed(Greedy):
    license = "of the published weights: MIT"


CARDS = {
    "license: mit": "mit, says README.md beside them",
    "license: other\nlicense_name: its own": "other its own, says README.md beside them",
    "license: [1]\ntags: [x]": Licensed.license,
    "a: [": Licensed.license,
    "": Licensed.license,
}


def test_the_license_is_that_of_the_files_or_of_the_published_weights(tmp_path: Path) -> None:
    @hookimpl
    def register_formats(register: Register) -> None:
        register("licensed", Licensed)

    found = toy_plugins()
    found.add(SimpleNamespace(vtp_api=2, register_formats=register_formats), "foreign")
    (tmp_path / "mine").write_text("theirs")
    assert license_of(load(tmp_path, plugins=found)) == Licensed.license
    for front, license_text in CARDS.items():
        (tmp_path / "README.md").write_text(f"---\n{front}\n---\n# A model\n---\nlicense: no\n")
        model = load(tmp_path, plugins=found)
        assert license_of(model) == license_text
    (tmp_path / "README.md").write_text("license: mit")
    assert license_of(load(tmp_path, plugins=found)) == Licensed.license
    own = load(model.save(tmp_path / "own"), plugins=found)
    assert license_of(own) == Licensed.license, "it stays with the artefact"
    line = "- Weights of another project; license of the published weights: MIT\n"
    assert line in (tmp_path / "own/README.md").read_text()
    (tmp_path / "config.json").write_text('{"_vtp_version": "0.1"}')
    assert license_of(load(tmp_path, plugins=found)) == "", "written here: the weights may be anyone's"


def test_a_license_that_nobody_states_is_not_guessed(tmp_path: Path, plugins: Plugins) -> None:
    (tmp_path / "mine").write_text("theirs")
    model = load(tmp_path, plugins=plugins)
    assert license_of(model) == NOT_STATED
    assert f"license {NOT_STATED}\n" in (model.save(tmp_path / "own") / "README.md").read_text()
    assert "another project" not in (toy_tokenizer().save(tmp_path / "ours") / "README.md").read_text()


@pytest.mark.parametrize(
    "other", ["vae/model.safetensors", "sub", "notes.txt", "heads/a/b/config.json", "link"]
)
def test_only_folders_of_a_writer_s_own_files_are_replaced(other: str, tmp_path: Path) -> None:
    def fill(new: Path) -> None:
        (new / "config.json").write_text("new")

    names = ("config.json", "heads/*/config.json", "link")
    (tmp_path / "out/heads/a").mkdir(parents=True)
    for name in ("config.json", "heads/a/config.json"):
        (tmp_path / "out" / name).write_text("old")
    replace_folder(tmp_path / "out", fill, lambda old: True, names)
    assert [path.name for path in (tmp_path / "out").rglob("*")] == ["config.json"]
    path = tmp_path / "out" / other
    path.parent.mkdir(parents=True, exist_ok=True)
    if other == "link":
        path.symlink_to(tmp_path)
    elif other == "sub":
        path.mkdir()
    else:
        path.write_text("mine")
    with pytest.raises(UsageError, match=r"which would be lost; choose another folder"):
        replace_folder(tmp_path / "out", fill, lambda old: True, names)
    assert path.exists()


def test_a_format_by_name(plugins: Plugins) -> None:
    (name,) = {c.name for c in plugins.components("format") if c.target is Greedy}
    assert isinstance(find_format(name, plugins), Greedy)
    with pytest.raises(UsageError, match="unknown format"):
        find_format("gredy", plugins)


def shipping(folder: Path) -> Plugins:
    """The toy's plugins, one of which ships the tokenizer `words.tiny`."""

    @hookimpl
    def register_tokenizers(register: Register) -> None:
        register("tiny", lambda: folder)

    plugins = toy_plugins()
    plugins.add(SimpleNamespace(vtp_api=2, register_tokenizers=register_tokenizers), "words")
    return plugins


def test_a_tokenizer_that_ships_is_loaded_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugins = shipping(toy_tokenizer().save(tmp_path / "package" / "data"))
    monkeypatch.chdir(tmp_path)
    assert load("words.tiny", plugins=plugins).config.step == 7
    assert load("Words.TINY", plugins=plugins).config.step == 7
    with pytest.raises(CheckpointError, match=r'tokenizer "words.tony"; did you mean "words.tiny"\?'):
        load("words.tony", plugins=plugins)
    # A path is never taken for a name, and a folder that is there goes first.
    with pytest.raises(CheckpointError, match="no tokenizer here"):
        load("package/words.tiny", plugins=plugins)
    (tmp_path / "words.tiny").mkdir()
    with pytest.raises(CheckpointError, match="no tokenizer here"):
        load("words.tiny", plugins=plugins)
    toy_tokenizer(text=False).save(tmp_path / "words.tiny")
    assert "embed_text" not in load("words.tiny", plugins=plugins).capabilities
