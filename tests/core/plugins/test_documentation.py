"""docs/plugin_hooks.md against the code: every hook with its arguments, every example works."""

from __future__ import annotations

import inspect
import re
import tomllib
from pathlib import Path

import pytest

from vtp_core.plugins import KINDS, Plugins, hookspecs
from vtp_core.plugins.hookspecs import hook_name

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
    (component,) = plugins.components()
    assert component.kind == kind
    for recipe in code(text, "toml"):
        assert tomllib.loads(recipe) and f'"{component.name}"' in recipe


def test_the_thirty_line_plugin_works(tmp_path):
    from vtp_core.plugins import load_plugins
    from vtp_core.testing import check_objective

    file = tmp_path / "mine.py"
    file.write_text(code((DOCS / "writing_a_plugin.md").read_text(), "python")[0])
    component = load_plugins([file], only=[]).find("objective", "mine.unit_norm")
    config = component.load_config()
    assert config is not None
    check_objective(component.load_target(), config(use=component.name, view="main"))
