"""docs/plugin_hooks.md against the code: every hook with its arguments, every example works."""

from __future__ import annotations

import inspect
import re
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from vtp_core.cli.main import main
from vtp_core.plugins import KINDS, Plugins, hookspecs
from vtp_core.plugins.hookspecs import hook_name
from vtp_core.recipe.shipped import find_recipe

DOCS = Path(__file__).resolve().parents[3] / "docs"
HEADING = re.compile(r"^### (register_\w+)\((.*)\)$", re.M)


def sections():
    """Hook name -> its section of the page."""
    parts = HEADING.split((DOCS / "plugin_hooks.md").read_text())
    return {parts[i]: (parts[i + 1], parts[i + 2].split("\n## ")[0]) for i in range(1, len(parts), 3)}


def code(text, language):
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)


def test_the_page_has_exactly_the_hooks_with_their_arguments():
    documented = {
        name: [part.strip() for part in arguments.split(",")] for name, (arguments, _) in sections().items()
    }
    declared = {
        name: list(inspect.signature(function).parameters)
        for name, function in vars(hookspecs).items()
        if hasattr(function, "vtp_spec")
    }
    assert documented == declared
    assert list(documented) == [hook_name(kind) for kind in KINDS]


def test_register_is_documented_with_its_signature():
    signature = inspect.signature(hookspecs.Register.__call__)
    names = [name for name in signature.parameters if name != "self"]
    (shown,) = re.findall(r"^register\((.*)\)$", (DOCS / "plugin_hooks.md").read_text(), re.M)
    assert re.findall(r"\b([a-z]+)\b(?=[,=]|$)", shown.replace('=""', "=").replace("=None", "=")) == names


@pytest.mark.parametrize("kind", KINDS)
def test_the_examples_register_what_their_recipe_uses(kind):
    _, text = sections()[hook_name(kind)]
    (example,) = code(text, "python")
    head = next(
        block for block in code((DOCS / "plugin_hooks.md").read_text(), "python") if "vtp_api" in block
    )
    namespace: dict[str, object] = {}
    exec(head + example, namespace)
    plugins = Plugins()
    plugins.add(type("Module", (), {key: value for key, value in namespace.items() if key[0] != "_"}), "foo")
    ((component,),) = [plugin.components for plugin in plugins]
    assert component.kind == kind
    for recipe in code(text, "toml"):
        assert tomllib.loads(recipe) and f'"{component.name}"' in recipe


def test_the_first_plugin_is_one_import_and_fewer_than_20_lines():
    first = code((DOCS / "writing_a_plugin.md").read_text(), "python")[0]
    assert len([line for line in first.splitlines() if line.strip()]) < 20
    assert re.findall(r"^(?:import|from) .*", first, re.M) == ["import vtp_core as vtp"]


def test_the_guide_runs_as_written(tmp_path, monkeypatch):
    """The plugin, its test, its table in a recipe and the commands below it."""
    text = (DOCS / "writing_a_plugin.md").read_text()
    plugin, test = code(text, "python")[:2]
    (tmp_path / "mine.py").write_text(plugin)
    (tmp_path / "test_mine.py").write_text(test)
    recipe = find_recipe("quickstart").read_text() + code(text, "toml")[0]
    (tmp_path / "my_recipe.toml").write_text(recipe)
    monkeypatch.chdir(tmp_path)
    commands = [line for line in text.splitlines() if line.startswith("vtp ") and "--plugin" in line]
    assert [line.split()[1] for line in commands] == ["plugins", "validate", "run"]
    for line in commands[:2]:
        done = CliRunner().invoke(main, line.split()[1:])
        assert done.exit_code == 0, done.output
    monkeypatch.syspath_prepend(tmp_path)
    namespace: dict[str, object] = {}
    try:
        exec(compile(test, "test_mine.py", "exec"), namespace)
    finally:
        sys.modules.pop("mine", None)
    namespace["test_unit_norm"]()
