"""``vtp schema``: the JSON schema of recipes, with all installed plugins. Imports no torch."""

from __future__ import annotations

import json
from pathlib import Path

import click

from vtp_core.cli.arguments.options import plugin_option
from vtp_core.plugins import load_plugins
from vtp_core.recipe.writing.json_schema import recipe_schema


@click.command()
@plugin_option
def schema(plugin_files: tuple[Path, ...]) -> None:
    """Print the JSON schema of recipes.

    Editors complete and explain keys by it: write it with vtp schema > recipe.schema.json and name it in the
    first line of a recipe: #:schema ./recipe.schema.json. vtp validate checks more.
    """
    click.echo(json.dumps(recipe_schema(load_plugins(plugin_files)), indent=2, ensure_ascii=False))
