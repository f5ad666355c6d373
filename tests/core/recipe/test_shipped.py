"""The recipes that ship: each is valid with the built-in plugins, and copies stay whole."""

import tomllib
from pathlib import Path

import pytest

from vtp_core.errors import UsageError
from vtp_core.plugins import Plugins, load_plugins
from vtp_core.recipe import dump_toml, load_recipe
from vtp_core.recipe.shipped import find_recipe, recipe_files, shipped_recipes, summary

NAMES = sorted(shipped_recipes())


@pytest.fixture(scope="module")
def installed() -> Plugins:
    return load_plugins()


def test_quickstart_ships() -> None:
    assert "quickstart" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_recipe_is_valid_and_resolves(name: str, installed: Plugins, tmp_path: Path) -> None:
    recipe = load_recipe(name, (), installed)
    (tmp_path / "resolved.toml").write_text(dump_toml(recipe), "utf-8")
    assert load_recipe(tmp_path / "resolved.toml", (), installed) == recipe


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_recipe_says_what_it_is(name: str) -> None:
    assert len(summary(shipped_recipes()[name])) > 20


def test_quickstart_stands_alone_with_steps_and_seed_on_lines_of_their_own() -> None:
    file = shipped_recipes()["quickstart"]
    lines = [line.partition("#")[0].strip() for line in file.read_text("utf-8").splitlines()]
    assert sum(line.startswith("steps = ") for line in lines) == 1
    assert sum(line.startswith("seed = ") for line in lines) == 1
    assert "extends" not in tomllib.loads(file.read_text("utf-8"))


def test_a_path_goes_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_recipe("quickstart").name == "quickstart.toml"
    Path("quickstart").write_text("", "utf-8")
    assert find_recipe("quickstart") == Path("quickstart")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "quikstart",
            'there is no recipe file and no shipped recipe "quikstart"; '
            'did you mean the shipped recipe "quickstart"?',
        ),
        ("zzz", 'there is no recipe file and no shipped recipe "zzz"; see `vtp recipes list`'),
        ("quickstart.toml", 'quickstart.toml: no such file; did you mean the shipped recipe "quickstart"?'),
        ("zzz.toml", "zzz.toml: no such file; see `vtp recipes list`"),
        ("zzz/qq", "zzz/qq: no such file; see `vtp recipes list`"),
    ],
)
def test_an_unknown_recipe_gets_one_suggestion_and_no_list(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        find_recipe(name)
    assert str(caught.value) == message


def test_a_copy_takes_along_what_it_extends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "base.toml").write_text("", "utf-8")
    (tmp_path / "sub" / "mid.toml").write_text('extends = ["../base.toml"]\n', "utf-8")
    (tmp_path / "sub" / "top.toml").write_text('extends = "mid.toml"\n', "utf-8")
    (tmp_path / "sub" / "alone.toml").write_text("", "utf-8")
    monkeypatch.setattr("vtp_core.recipe.shipped.resources.files", lambda package: tmp_path)
    assert set(recipe_files(tmp_path / "sub" / "top.toml")) == {
        Path("sub/top.toml"),
        Path("sub/mid.toml"),
        Path("base.toml"),
    }
    assert set(recipe_files(tmp_path / "sub" / "alone.toml")) == {Path("alone.toml")}


def test_the_first_sentence_is_the_summary(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text("#:schema x\n# One thing\n# in two lines. And more.\n\n# other\n", "utf-8")
    assert summary(file) == "One thing in two lines"
    file.write_text("a = 1\n", "utf-8")
    assert summary(file) == ""
