"""``vtp validate``: prints all errors of a recipe. Imports no torch."""

from __future__ import annotations

from pathlib import Path

import click

from vtp_core.cli.options import plugin_option, recipe_argument, set_option, world_size_option
from vtp_core.plugins import load_plugins
from vtp_core.recipe import load_recipe


@click.command()
@recipe_argument
@set_option
@world_size_option
@plugin_option
def validate(
    recipe: str, overrides: tuple[str, ...], world_size: int | None, plugin_files: tuple[Path, ...]
) -> None:
    """Check RECIPE, a file or the name of a shipped recipe, and print everything that is wrong with it.

    Opens no data and no weights. Exit code 2 if anything is wrong.
    """
    loaded = load_recipe(recipe, overrides, load_plugins(plugin_files), world_size)
    ranks = world_size or loaded.parallel.world_size or 1
    counts = ", ".join(
        f"{len(table)} {what if len(table) != 1 else what.removesuffix('s')}"
        for table, what in ((loaded.views, "views"), (loaded.objectives, "objectives"))
    )
    click.echo(f"{recipe} is valid: {loaded.name}, {loaded.run.steps} steps, {counts}, world size {ranks}")
