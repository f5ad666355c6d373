"""Loads a recipe: a `Recipe`, or one error with everything that is wrong. Imports no torch."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtp_core.recipe.history import RESOLVED, update_recipe
from vtp_core.recipe.problems import RecipeErrors, dotted, quoted
from vtp_core.recipe.reading.architecture import take_architectures
from vtp_core.recipe.reading.check import check
from vtp_core.recipe.reading.files import Tree, read_tree
from vtp_core.recipe.reading.parts import Parts, read_parts
from vtp_core.recipe.shipped import find_recipe
from vtp_core.recipe.tables.recipe import Recipe

if TYPE_CHECKING:
    from vtp_core.plugins import Plugins


def load_recipe(
    path: str | Path,
    overrides: Sequence[str] = (),
    plugins: Plugins | None = None,
    world_size: int | None = None,
) -> Recipe:
    """Reads and checks a recipe. Opens no data, weights or `init_from`.

    Args:
        path: A file, the folder of a run, or the name of a shipped recipe. A run's ``resolved.toml`` may have
            old keys; of a folder, that folder is ``run.out``.
        overrides: ``key.path=value`` each, applied after the files; the value is TOML, else a string.
        plugins: Installed plugins; None loads them.
        world_size: Ranks to check for; None: the recipe's ``parallel.world_size``, or 1.

    Raises:
        RecipeErrors: All problems, each with file, line and key.
        UsageError: There is no such recipe.
    """
    if plugins is None:
        from vtp_core.plugins import load_plugins

        plugins = load_plugins()
    file = find_recipe(path)
    if file.name == RESOLVED and os.path.isdir(path):
        overrides = (f"run.out={quoted(str(file.parent))}", *overrides)
    tree = read_tree(file, overrides)
    take_architectures(tree, plugins)
    tree.values.setdefault("name", _name_of(tree.file))
    _check_names(tree, plugins)
    parts = read_parts(tree, plugins)
    check(tree, parts, world_size)
    if tree.problems:
        raise RecipeErrors(tree.problems)
    return _assembled(parts, tree)


def _check_names(tree: Tree, plugins: Plugins) -> None:
    """Updates renamed keys; one in a file that a person wrote is a problem that gives the new name."""
    for change in update_recipe(tree.values, plugins, added=Path(tree.file).name == RESOLVED):
        if Path(tree.origin(change.old).file).name != RESOLVED:
            tree.report(change.old, change.message)
        tree.move(change.old, change.new)


def _name_of(file: str) -> str:
    """A valid recipe name from that of a file."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", Path(file).stem).strip("-._") or "recipe"


def _assembled(parts: Parts, tree: Tree) -> Recipe:
    values: dict[str, Any] = {}
    for path, value in parts.values.items():
        if len(path) == 1:
            values[str(path[0])] = value
        else:
            values.setdefault(str(path[0]), {})[path[1]] = value
    run, name = values["run"], values["name"]
    values["run"] = run.model_copy(update={"out": run.out.replace("<name>", name)})
    origins = {dotted(path): origin for path, origin in tree.origins.items()}
    return Recipe.model_validate({**values, "provenance": origins})
