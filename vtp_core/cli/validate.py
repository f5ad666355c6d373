"""``vtp validate``: prints all errors of a recipe. Imports no torch."""

from __future__ import annotations

import json
from pathlib import Path

import click

from vtp_core.cli.arguments.options import (
    json_option,
    plugin_option,
    recipe_argument,
    set_option,
    world_size_option,
)
from vtp_core.plugins import load_plugins
from vtp_core.recipe import RecipeErrors, load_recipe


@click.command()
@recipe_argument
@set_option
@world_size_option
@json_option
@plugin_option
def validate(
    recipe: str,
    overrides: tuple[str, ...],
    world_size: int | None,
    as_json: bool,
    plugin_files: tuple[Path, ...],
) -> None:
    """Check RECIPE and print everything that is wrong with it.

    RECIPE is a file, the name of a shipped recipe, or the folder of a run. Opens no data and no weights. Exit
    code 2 if anything is wrong.
    """
    try:
        loaded = load_recipe(recipe, overrides, load_plugins(plugin_files), world_size)
    except RecipeErrors as errors:
        if not as_json:
            raise
        problems = [
            {"file": it.place.file, "line": it.place.line, "key": it.key, "message": it.message}
            for it in errors.problems
        ]
        click.echo(json.dumps({"valid": False, "problems": problems}, indent=2, ensure_ascii=False))
        raise SystemExit(errors.exit_code) from None
    if as_json:
        click.echo(json.dumps({"valid": True, "name": loaded.name, "problems": []}, indent=2))
        return
    ranks = world_size or loaded.parallel.world_size or 1
    counts = ", ".join(
        f"{len(table)} {what if len(table) != 1 else what.removesuffix('s')}"
        for table, what in ((loaded.views, "views"), (loaded.objectives, "objectives"))
    )
    click.echo(f"{recipe} is valid: {loaded.name}, {loaded.run.steps} steps, {counts}, world size {ranks}")
