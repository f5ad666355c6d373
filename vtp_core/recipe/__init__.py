"""Recipes: TOML files to checked, frozen data with the place of every value. Imports no torch.

`load_recipe` reads one and reports everything that is wrong in a single error; `dump_toml` writes it out in
full. The base classes of a plugin's tables are in `vtp_core.config`.
"""

from vtp_core.recipe.load import load_recipe
from vtp_core.recipe.problems import Origin, Problem, RecipeErrors
from vtp_core.recipe.tables.recipe import Recipe
from vtp_core.recipe.writing.dump import dump_toml

__all__ = ["Origin", "Problem", "Recipe", "RecipeErrors", "dump_toml", "load_recipe"]
