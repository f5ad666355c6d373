"""Which installed source reads a path, with sources of every behaviour."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.core.data.making import samples, write_tar
from vtp_core.config import ComponentConfig, SourceConfig
from vtp_core.data.opening import open_source
from vtp_core.data.recognition import recognise
from vtp_core.errors import DataError, UsageError
from vtp_core.plugins import Plugins, Register, hookimpl, load_plugins
from vtp_core.recipe.tables.data import DecodeLimits


class Bins(SourceConfig):
    files: str
    """Where."""

    @classmethod
    def recognise(cls, path: str) -> Mapping[str, object] | None:
        return {"files": f"{path}/*"} if path.endswith(".bin") else None


class Remote(SourceConfig):
    @classmethod
    def recognise(cls, path: str) -> Mapping[str, object] | None:
        if path.startswith("far:"):
            raise ValueError("set FAR_TOKEN first")
        return None


class Crashing(SourceConfig):
    @classmethod
    def recognise(cls, path: str) -> Mapping[str, object] | None:
        raise KeyError("x")


class Wrong(SourceConfig):
    @classmethod
    def recognise(cls, path: str) -> Mapping[str, object] | None:
        return {"fils": path}


class Greedy(Bins):
    pass


def offering(**configs: object) -> Plugins:
    @hookimpl
    def register_sources(register: Register) -> None:
        for name, config in configs.items():
            register(name, "nowhere:Source", config=config)  # type: ignore[arg-type]

    plugins = Plugins()
    plugins.add(SimpleNamespace(vtp_api=2, register_sources=register_sources), "foo")
    return plugins


def test_the_one_source_that_recognises_a_path_gets_its_table() -> None:
    plugins = offering(bins=Bins, remote=Remote, plain=ComponentConfig, keyless=None)
    config = recognise("a.bin", plugins)
    assert config == Bins(use="foo.bins", files="a.bin/*")


def test_a_source_that_crashes_or_is_broken_stops_no_other() -> None:
    plugins = offering(crashing=Crashing, absent="no_such_module:Config", bins=Bins)
    assert recognise("a.bin", plugins).use == "foo.bins"
    with pytest.raises(DataError) as caught:
        recognise("a.txt", plugins)
    line = str(caught.value)
    assert "foo.crashing: KeyError: 'x'" in line and "No module named 'no_such_module'" in line
    assert "\n" not in line


def test_the_reason_of_a_source_that_can_not_read_its_own_form_is_shown() -> None:
    with pytest.raises(
        DataError, match=r"^far:x: no installed source recognises it \(foo.remote: set FAR_TOKEN"
    ):
        recognise("far:x", offering(bins=Bins, remote=Remote))
    assert recognise("far:x.bin", offering(bins=Bins, remote=Remote)).use == "foo.bins"


def test_two_sources_that_recognise_a_path_are_both_named() -> None:
    with pytest.raises(DataError) as caught:
        recognise("a.bin", offering(bins=Bins, greedy=Greedy))
    assert str(caught.value) == (
        "a.bin: foo.bins and foo.greedy read it; give the table of one, "
        """such as '{ use = "foo.bins", files = "a.bin/*" }'"""
    )


def test_keys_that_make_no_table_are_an_error_that_names_the_source() -> None:
    with pytest.raises(UsageError, match=r"^source foo\.wrong: fils: unknown key"):
        recognise("x", offering(wrong=Wrong))


def test_without_any_source_the_next_step_is_named() -> None:
    with pytest.raises(DataError, match=r"x: no installed source recognises it; give a table, \{ use = "):
        recognise("x", Plugins())


@pytest.mark.parametrize(
    ("files", "path", "use", "keys"),
    [
        (["a.tar"], "", "webdataset", {"urls": "{root}/*.tar"}),
        (["a.tar"], "a.tar", "webdataset", {"urls": "{root}/a.tar"}),
        ([], "{{00..01}}.tar", "webdataset", {"urls": "{root}/{{00..01}}.tar"}),
        (["x.png"], "", "image_folder", {"path": "{root}"}),
        (["cat/deep/x.JPG"], "", "image_folder", {"path": "{root}"}),
        (["x.png", "metadata.jsonl"], "", "image_list", {"path": "{root}"}),
        (["x.csv"], "x.csv", "image_list", {"path": "{root}/x.csv"}),
    ],
)
def test_what_the_built_in_sources_recognise(
    tmp_path: Path, files: list[str], path: str, use: str, keys: dict[str, str]
) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    config = recognise(str(tmp_path / path.format()), load_plugins())
    assert config.use == use
    for key, value in keys.items():
        assert getattr(config, key) == value.format(root=tmp_path)


@pytest.mark.parametrize("name", ["notes.txt", ".hidden.png", ".hidden/x.png", "x.tar.gz"])
def test_what_no_built_in_source_recognises(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(DataError, match="no installed source recognises it"):
            recognise(str(path), load_plugins())


@pytest.mark.parametrize("name", ["set[1]", "set{1}", "set{a,b}", "cc12m [v2] *"])
def test_a_folder_whose_name_is_a_pattern_is_taken_literally(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    write_tar(folder / "a.tar", samples(2))
    plugins = load_plugins()
    for path in (folder, folder / "a.tar"):
        assert len(open_source(recognise(str(path), plugins), DecodeLimits(), plugins)) == 2


class Ending(SourceConfig):
    @classmethod
    def recognise(cls, path: str) -> Mapping[str, object] | None:
        raise {"exit": SystemExit(0), "base": BaseException("at the base"), "os": GeneratorExit()}[path]


@pytest.mark.parametrize("path", ["exit", "base", "os"])
def test_a_source_that_ends_the_process_when_asked_stops_no_other(path: str) -> None:
    with pytest.raises(DataError, match=rf"^{path}: no installed source recognises it \(foo.ending: "):
        recognise(path, offering(ending=Ending, bins=Bins))
