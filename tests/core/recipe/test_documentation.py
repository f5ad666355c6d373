"""docs/recipes.md names every key, its examples hold, and its error lines are what is printed."""

import re
import tomllib
from pathlib import Path

from pydantic import BaseModel

from vtp_core.recipe.reading.keys import key_of
from vtp_core.recipe.tables.recipe import Recipe
from vtp_core.recipe.tables.views import ViewConfig

TEXT = (Path(__file__).parents[3] / "docs" / "recipes.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def test_every_core_key_is_named() -> None:
    for name, field in Recipe.model_fields.items():
        if field.exclude:
            continue
        assert re.search(rf"`{key_of(name, field)}`|\[{key_of(name, field)}[.\]]", TEXT), name
        model = field.annotation
        if (
            isinstance(model, type)
            and issubclass(model, BaseModel)
            and name not in ("encoder", "bottleneck", "decoder")
        ):
            row = re.search(rf"^\| `\[{name}\]`.*$", TEXT, re.MULTILINE)
            assert row, name
            assert {key for key in model.model_fields if f"`{key}`" not in row.group()} == set()
    assert all(f"`{key}`" in TEXT for key in ViewConfig.model_fields)


def test_toml_examples_are_toml_and_the_first_is_a_recipe(tmp_path: Path) -> None:
    from vtp_core.recipe import load_recipe

    for block in blocks("toml"):
        tomllib.loads(block)
    file = tmp_path / "smallest.toml"
    file.write_text(blocks("toml")[0], "utf-8")
    assert load_recipe(file).name == "smallest"


def test_the_python_example_runs(capsys: object) -> None:
    (block,) = blocks("python")
    exec(compile(block, "docs/recipes.md", "exec"), {})


def test_the_error_example_has_the_form_of_the_real_ones() -> None:
    (block,) = blocks("text")
    *lines, last = block.splitlines()
    assert last == f"{len(lines)} errors; nothing was started."
    assert all(re.match(r"(\S+:\d+|command line -s) +\S+ +\S", line) for line in lines)
