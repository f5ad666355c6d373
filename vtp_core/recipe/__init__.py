"""Recipes: TOML files to checked, frozen data with the place of every value. Imports no torch.

`load_recipe` reads one with everything that is wrong in a single error; `dump_toml` writes it out in full.
"""

from vtp_core.recipe.component import ComponentConfig, ObjectiveConfig, SourceConfig, Table
from vtp_core.recipe.dump import dump_toml
from vtp_core.recipe.load import load_recipe
from vtp_core.recipe.model import Recipe
from vtp_core.recipe.problems import Origin, Problem, RecipeErrors
from vtp_core.recipe.schedule import Scheduled, value_at

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
