"""``vtp recipes``: the recipes that ship with the framework. Imports no torch."""

from __future__ import annotations

import json
from pathlib import Path

import click

from vtp_core.cli.arguments import completion
from vtp_core.cli.arguments.options import json_option
from vtp_core.cli.output import table
from vtp_core.errors import UsageError
from vtp_core.recipe.problems import alike
from vtp_core.recipe.shipped import advice, grouped_recipes, recipe_files, shipped_recipes, summary


@click.group()
def recipes() -> None:
    """List and copy the recipes that ship with vtp."""


@recipes.command("list")
@click.option("--all", "every", is_flag=True, help="Also the tiny versions that tests train.")
@json_option
def list_(every: bool, as_json: bool) -> None:
    """List the recipes, what to start from first."""
    groups = {
        title: {name: summary(file) for name, file in files.items() if every or "/" not in name}
        for title, files in grouped_recipes().items()
    }
    if as_json:
        rows = [
            {"name": name, "group": title, "summary": text}
            for title, texts in groups.items()
            for name, text in texts.items()
        ]
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    lines = table([row for texts in groups.values() for row in texts.items()]).splitlines()
    for title, texts in groups.items():
        if texts:
            click.echo(f"{title}:")
            click.echo("".join(f"  {lines.pop(0)}\n" for _ in texts))
    click.echo('vtp recipes copy NAME writes one here; `extends = "NAME"` builds on one.')
    if not every:
        click.echo("--all lists the tiny versions that tests train, too.")


@recipes.command()
@click.argument("name", shell_complete=completion.recipes)
@click.argument("folder", metavar="[DIR]", default=".", type=click.Path(file_okay=False, path_type=Path))
def copy(name: str, folder: Path) -> None:
    """Copy recipe NAME to a folder, with those it extends.

    DIR is this folder unless it is given. Nothing is overwritten.
    """
    shipped = shipped_recipes()
    found = alike(name.removesuffix(".toml"), shipped)
    if found is None:
        raise UsageError(
            f'there is no shipped recipe "{name}"; {advice(name.removesuffix(".toml"), shipped)}'
        )
    files = recipe_files(shipped[found])
    targets = {folder / target: source for target, source in files.items()}
    for target in targets:
        if target.exists():
            raise UsageError(f"{target} exists; remove it or choose another folder")
    for target, source in targets.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())
        click.echo(str(target))
    click.echo(f"\nNext: vtp run {next(iter(targets))} --out FOLDER", err=True)
