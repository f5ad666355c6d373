"""Recipes: TOML files to checked, frozen data with the place of every value. Imports no torch.

`load_recipe` reads one with everything that is wrong in a single error; `dump_toml` writes it out in full.
Names are imported when they are used: a plugin's ``config.py`` needs the base classes, not the rest.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vtp_core.config import ComponentConfig, ObjectiveConfig, SourceConfig, Table
    from vtp_core.recipe.load import load_recipe
    from vtp_core.recipe.problems import Origin, Problem, RecipeErrors
    from vtp_core.recipe.tables.recipe import Recipe
    from vtp_core.recipe.writing.dump import dump_toml
    from vtp_core.schedule import Scheduled, value_at

_HOMES = {
    "ComponentConfig": "vtp_core.config",
    "ObjectiveConfig": "vtp_core.config",
    "Origin": "vtp_core.recipe.problems",
    "Problem": "vtp_core.recipe.problems",
    "Recipe": "vtp_core.recipe.tables.recipe",
    "RecipeErrors": "vtp_core.recipe.problems",
    "Scheduled": "vtp_core.schedule",
    "SourceConfig": "vtp_core.config",
    "Table": "vtp_core.config",
    "dump_toml": "vtp_core.recipe.writing.dump",
    "load_recipe": "vtp_core.recipe.load",
    "value_at": "vtp_core.schedule",
}

__all__ = [
    "ComponentConfig",
    "ObjectiveConfig",
    "Origin",
    "Problem",
    "Recipe",
    "RecipeErrors",
    "Scheduled",
    "SourceConfig",
    "Table",
    "dump_toml",
    "load_recipe",
    "value_at",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
