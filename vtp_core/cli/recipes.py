"""``vtp recipes``: the recipes that ship with the framework. Imports no torch."""

from __future__ import annotations

from pathlib import Path

import click

from vtp_core.cli.output import table
from vtp_core.errors import UsageError
from vtp_core.recipe.shipped import advice, recipe_files, shipped_recipes, summary


@click.group()
def recipes() -> None:
    """List and copy the recipes that ship with vtp."""


@recipes.command("list")
def list_() -> None:
    """Print the name and first words of each recipe."""
    click.echo(table([(name, summary(file)) for name, file in shipped_recipes().items()]))


@recipes.command()
@click.argument("name")
@click.argument("folder", metavar="[DIR]", default=".", type=click.Path(file_okay=False, path_type=Path))
def copy(name: str, folder: Path) -> None:
    """Copy recipe NAME, with the recipes that it extends, to DIR (default: here). Overwrites nothing."""
    shipped = shipped_recipes()
    if name.removesuffix(".toml") not in shipped:
        raise UsageError(
            f'there is no shipped recipe "{name}"; {advice(name.removesuffix(".toml"), shipped)}'
        )
    files = recipe_files(shipped[name.removesuffix(".toml")])
    targets = {folder / target: source for target, source in files.items()}
    for target in targets:
        if target.exists():
            raise UsageError(f"{target} exists; remove it or choose another folder")
    for target, source in targets.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())
        click.echo(str(target))
