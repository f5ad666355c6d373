"""``vtp show``: a recipe written out in full. Imports no torch."""

from __future__ import annotations

import json
from pathlib import Path

import click

from vtp_core.cli.arguments.options import json_option, plugin_option, recipe_argument, set_option
from vtp_core.plugins import load_plugins
from vtp_core.recipe import dump_toml, load_recipe


@click.command()
@recipe_argument
@set_option
@plugin_option
@click.option(
    "--sources",
    is_flag=True,
    help="Add to each value where it was set, and its origin: paper, author, upstream or ours.",
)
@json_option
def show(
    recipe: str, overrides: tuple[str, ...], plugin_files: tuple[Path, ...], sources: bool, as_json: bool
) -> None:
    """Print RECIPE with everything that it extends and all defaults, as one TOML file."""
    loaded = load_recipe(recipe, overrides, load_plugins(plugin_files))
    if as_json:
        click.echo(json.dumps(loaded.model_dump(mode="json", by_alias=True), indent=2, ensure_ascii=False))
    else:
        click.echo(dump_toml(loaded, sources), nl=False)
