"""``vtp run``: trains what recipes describe, one stage after another."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vtp_core.cli.options import plugin_option, set_option
from vtp_core.errors import UsageError

if TYPE_CHECKING:
    from vtp_core.plugins import Plugins
    from vtp_core.recipe import Recipe


@click.command()
@click.argument("recipes", metavar="RECIPE...", nargs=-1, required=True)
@set_option
@plugin_option
@click.option("--resume", is_flag=True, help="Go on from the newest checkpoint of the run folder.")
@click.option("--allow-change", is_flag=True, help="Resume even if keys of the model or the data changed.")
@click.option(
    "--nproc", type=click.IntRange(min=1), default=1, metavar="N", help="Ranks to start on this machine."
)
def run(
    recipes: tuple[str, ...],
    overrides: tuple[str, ...],
    plugin_files: tuple[Path, ...],
    resume: bool,
    allow_change: bool,
    nproc: int,
) -> None:
    """Train what RECIPE describes; several recipes are stages, run in turn.

    RECIPE is a file or the name of a shipped recipe. Nothing starts before all of them are checked. Under
    torchrun the command is one of its ranks.
    """
    from vtp_core.plugins import load_plugins
    from vtp_core.recipe import load_recipe
    from vtp_core.run.launch import launched_ranks, start_ranks

    ranks = launched_ranks()
    plugins = load_plugins(files=plugin_files)
    world_size = ranks or nproc
    stages = [load_recipe(path, overrides, plugins=plugins, world_size=world_size) for path in recipes]
    if nproc > 1 and ranks is None:
        raise SystemExit(start_ranks(nproc, sys.argv[1:]))
    _log_to_stderr()
    _check_folders(stages, resume=resume)
    from vtp_core.training.ranks.parallel import leave_world

    for stage in stages:
        _train(stage, plugins, resume=resume, allow_change=allow_change, stages=len(stages))
    leave_world()  # after an error the process ends instead: a rank that failed must not wait for the others


def _check_folders(stages: Sequence[Recipe], *, resume: bool) -> None:
    """Refuses occupied folders of any stage, and two stages in one folder, before the first stage starts."""
    from vtp_core.run.records import RunFolder

    taken: dict[str, str] = {}
    for stage in stages:
        folder = RunFolder.of(stage)
        if str(folder) in taken:
            raise UsageError(
                f"stages {taken[str(folder)]} and {stage.name} both write to {folder} (-s run.out holds for "
                "all): give each recipe a run.out of its own"
            )
        taken[str(folder)] = stage.name
        if not resume:
            folder.require_new()


def _log_to_stderr() -> None:
    """Writes the run's log to standard error: all of rank 0, warnings of the others."""
    logger = logging.getLogger("vtp_core")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    click.get_current_context().call_on_close(lambda: logger.removeHandler(handler))
    logger.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING)


def _train(recipe: Recipe, plugins: Plugins, *, resume: bool, allow_change: bool, stages: int) -> None:
    from vtp_core.run.records import RunFolder
    from vtp_core.run.train import train

    done = train(recipe, plugins, resume=resume, allow_change=allow_change)
    if done is None:
        return
    if stages > 1:
        click.echo(f"stage {recipe.name} is done")
    from vtp_core.cli.results import results_table

    if done.results:
        click.echo(results_table(done.results))
    folder = RunFolder(done.folder)
    if not done.results and (gallery := folder.read().gallery):
        shown = f"median PSNR {gallery['psnr']['median']:.2f} dB, {gallery['held_out']}"
        click.echo(f"reconstructions  {shown}")
    click.echo(f"tokenizer  {folder.tokenizer}")
    click.echo(f"report     {folder.report}")
