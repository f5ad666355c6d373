"""``vtp plan``: what a recipe would run, and what it would take. Opens no data and no weights."""

from __future__ import annotations

import json
from pathlib import Path

import click

from vtp_core.cli.arguments.options import plugin_option, recipe_argument, set_option, world_size_option
from vtp_core.plugins import load_plugins
from vtp_core.recipe import load_recipe


@click.command()
@recipe_argument
@set_option
@world_size_option
@plugin_option
@click.option(
    "--memory",
    "gib",
    type=click.FloatRange(min=0, min_open=True),
    metavar="GIB",
    help="Memory of a rank's device: say which row chunks fit it.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON; bytes and FLOPs in full.")
def plan(
    recipe: str,
    overrides: tuple[str, ...],
    world_size: int | None,
    plugin_files: tuple[Path, ...],
    gib: float | None,
    as_json: bool,
) -> None:
    """Print what RECIPE would run in a step: groups, forwards run or shared, parameters, FLOPs, memory.

    Measures one step of a few drawn rows on the CPU and scales it. Opens no data and no weights.
    """
    plugins = load_plugins(plugin_files)
    loaded = load_recipe(recipe, overrides, plugins, world_size)

    from vtp_plugins.plan.fits import say_what_fits
    from vtp_plugins.plan.plan import make_plan
    from vtp_plugins.plan.text import render

    made = make_plan(loaded, plugins, world_size)
    if gib is not None:
        made.notes.append(say_what_fits(made.fits, gib))
    click.echo(json.dumps(made.data(), indent=2) if as_json else render(made))
