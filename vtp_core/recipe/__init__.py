"""Recipes: TOML files to checked, frozen data with the place of every value. Imports no torch.

`load_recipe` reads one with everything that is wrong in a single error; `dump_toml` writes it out in full.
Names are imported when they are used: a plugin's ``config.py`` needs the base classes, not the rest.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vtp_core.recipe.component import ComponentConfig, ObjectiveConfig, SourceConfig, Table
    from vtp_core.recipe.dump import dump_toml
    from vtp_core.recipe.load import load_recipe
    from vtp_core.recipe.model import Recipe
    from vtp_core.recipe.problems import Origin, Problem, RecipeErrors
    from vtp_core.recipe.schedule import Scheduled, value_at

_HOMES = {
    "ComponentConfig": "component",
    "ObjectiveConfig": "component",
    "Origin": "problems",
    "Problem": "problems",
    "Recipe": "model",
    "RecipeErrors": "problems",
    "Scheduled": "schedule",
    "SourceConfig": "component",
    "Table": "component",
    "dump_toml": "dump",
    "load_recipe": "load",
    "value_at": "schedule",
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
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
