"""A recipe is named by its file, by its shipped name or by the folder of its run, alike everywhere."""

from pathlib import Path

import pytest

from vtp_core.errors import UsageError
from vtp_core.plugins import load_plugins
from vtp_core.recipe import dump_toml, load_recipe
from vtp_core.recipe.problems import RecipeErrors
from vtp_core.recipe.shipped import find_recipe, shipped_recipes


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", ["vtp_nano", "vtp-nano", "VTP-Nano"])
def test_a_shipped_name_in_any_spelling(name: str) -> None:
    assert find_recipe(name) == shipped_recipes()["vtp_nano"]
    Path("mine.toml").write_text(f'extends = "{name}"\nrun.steps = 3\n')
    recipe = load_recipe("mine.toml")
    assert recipe.run.steps == 3
    assert recipe.encoder == load_recipe("vtp_nano").encoder


def test_a_file_goes_before_a_shipped_name() -> None:
    Path("quickstart").write_text('extends = "vtp_nano"\n')
    Path("mine.toml").write_text('extends = "quickstart"\n')
    assert load_recipe("mine.toml").encoder == load_recipe("vtp_nano").encoder


def test_an_unknown_name_that_is_extended_gets_advice() -> None:
    Path("mine.toml").write_text('extends = "quikstart"\n')
    with pytest.raises(RecipeErrors, match=r'extends  there is no file quikstart .* recipe "quickstart"\?'):
        load_recipe("mine.toml")


@pytest.mark.parametrize("given", ["runs/a", "runs/a/tokenizer", "runs/a/"])
def test_the_folder_of_a_run_stands_for_its_recipe(given: str) -> None:
    plugins = load_plugins()
    trained = load_recipe("quickstart", ["run.steps=7", "run.out=elsewhere"], plugins)
    Path("runs/a/tokenizer").mkdir(parents=True)
    Path("runs/a/resolved.toml").write_text(dump_toml(trained))
    recipe = load_recipe(given, plugins=plugins)
    assert (recipe.run.steps, recipe.run.out) == (7, "runs/a")
    assert load_recipe(given, ["run.out=b"], plugins).run.out == "b"
    assert load_recipe("runs/a/resolved.toml", plugins=plugins).run.out == "elsewhere"


def test_a_folder_is_no_recipe_unless_a_shipped_one_has_its_name() -> None:
    Path("quickstart").mkdir()
    assert find_recipe("quickstart") == shipped_recipes()["quickstart"]
    Path("photos").mkdir()
    with pytest.raises(UsageError, match="photos: a folder without resolved"):
        find_recipe("photos")
