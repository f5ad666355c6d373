"""``vtp run``: trains what recipes describe, one stage after another."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vtp_core.cli.arguments import completion
from vtp_core.cli.arguments.options import json_option, plugin_option, set_option
from vtp_core.cli.output import check_folder
from vtp_core.errors import CheckpointError, UsageError
from vtp_core.plugins.component import import_path
from vtp_core.recipe.problems import quoted

if TYPE_CHECKING:
    from vtp_core.data.opening import Sources
    from vtp_core.plugins import Plugins
    from vtp_core.recipe import Recipe
    from vtp_core.run.train import Done


@click.command()
@click.argument("recipes", metavar="RECIPE...", nargs=-1, required=True, shell_complete=completion.recipes)
@set_option
@plugin_option
@click.option("-o", "--out", metavar="FOLDER", help="Folder of the run; the same as -s run.out=FOLDER.")
@click.option("--resume", is_flag=True, help="Go on from the newest checkpoint of the run folder.")
@click.option("--allow-change", is_flag=True, help="Resume even if keys of the model or the data changed.")
@click.option(
    "--nproc", type=click.IntRange(min=1), default=1, metavar="N", help="Ranks to start on this machine."
)
@json_option
def run(
    recipes: tuple[str, ...],
    overrides: tuple[str, ...],
    plugin_files: tuple[Path, ...],
    out: str | None,
    resume: bool,
    allow_change: bool,
    nproc: int,
    as_json: bool,
) -> None:
    """Train what RECIPE describes; several recipes are stages, run in turn.

    RECIPE is a file, the name of a shipped recipe, or the folder of a run to go on with --resume. Nothing
    starts before all of them are checked. Under torchrun the command is one of its ranks.
    """
    from vtp_core.plugins import load_plugins
    from vtp_core.recipe import load_recipe
    from vtp_core.run.processes.launch import start_ranks
    from vtp_core.run.processes.rank import launched_ranks

    ranks = launched_ranks()
    plugins = load_plugins(files=plugin_files)
    if out is not None:
        overrides = (*overrides, f"run.out={quoted(out)}")
    world_size = ranks or nproc
    stages = [load_recipe(path, overrides, plugins=plugins, world_size=world_size) for path in recipes]
    _check(stages, plugins, resume=resume, allow_change=allow_change, alone=ranks is None)
    if nproc > 1 and ranks is None:
        raise SystemExit(start_ranks(nproc, sys.argv[1:]))
    _log_to_stderr(plugins)
    opened = [_open_sources(stage, plugins) for stage in stages]
    from vtp_core.run.train import train
    from vtp_core.training.ranks.parallel import leave_world

    all_done = []
    for stage, sources in zip(stages, opened, strict=True):
        done = train(stage, plugins, resume=resume, allow_change=allow_change, sources=sources)
        if done is None:
            continue
        all_done.append({"name": stage.name, **_outcome(done)})
        if not as_json:
            if len(stages) > 1:
                click.echo(f"stage {stage.name} is done")
            _print(done)
    if as_json and all_done:
        click.echo(json.dumps(all_done[0] if len(all_done) == 1 else all_done, indent=2))
    leave_world()  # after an error the process ends instead: a rank that failed must not wait for the others


def _check(
    stages: Sequence[Recipe], plugins: Plugins, *, resume: bool, allow_change: bool, alone: bool
) -> None:
    """Refuses, before the first stage starts, what would stop any of them at its start. Imports no torch.

    Args:
        stages: The recipes.
        plugins: Where shipped tokenizers are looked up.
        resume: Whether stages may have begun.
        allow_change: Whether their recipes may have changed since.
        alone: Whether this is no rank among others, so that a held folder is another run's.

    Raises:
        UsageError: A folder is occupied, unusable or that of two stages, or run.steps are made already.
        CheckpointError: ``init_from`` leads nowhere, or the recipe changed since the checkpoint.
    """
    from vtp_core.recipe.tokenizers import locate
    from vtp_core.run.processes.lock import locked
    from vtp_core.run.records import RunFolder
    from vtp_core.run.setup.recipe_change import check_newest
    from vtp_core.training.saving.manifest import published

    taken: dict[str, str] = {}
    for stage in stages:
        folder = RunFolder.of(stage)
        if str(folder) in taken:
            raise UsageError(
                f"stages {taken[str(folder)]} and {stage.name} both write to {folder} (--out holds for "
                "all): give each recipe a run.out of its own"
            )
        check_folder("run.out", folder.path)
        if resume:
            check_newest(folder.checkpoints, stage, plugins, allow_change)
        else:
            folder.require_new()
        if alone and folder.lock.exists():
            with locked(folder):  # raises if another process holds it
                pass
        started = resume and published(folder.checkpoints)
        if (weights := stage.init_from) is not None and not started:
            path = locate(weights if isinstance(weights, str) else weights.path, plugins)
            before = any(path.is_relative_to(earlier) for earlier in taken)
            if not (path.exists() or before):
                raise CheckpointError(
                    f"init_from: {path} does not exist; give a run folder, a checkpoint or an artefact"
                )
        taken[str(folder)] = stage.name


def _open_sources(recipe: Recipe, plugins: Plugins) -> Sources:
    """Opens what a stage reads, so that missing data is refused before torch is imported."""
    from vtp_core.data.opening import Sources

    sources = Sources(plugins, recipe.data.decode)
    sources.named(recipe.data)
    for table in (recipe.evaluate.source, recipe.evaluate.train_source):
        if table is not None:
            sources.open(table)
    return sources


def _log_to_stderr(plugins: Plugins) -> None:
    """Writes the run's log and that of plugins to standard error: all of rank 0, warnings of the others."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    modules = [import_path(component.target) for component in plugins.components()]
    for name in sorted({"vtp_core", *(re.split(r"[.:]", module)[0] for module in modules)}):
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        click.get_current_context().call_on_close(partial(logger.removeHandler, handler))
        logger.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING)


def _outcome(done: Done) -> dict[str, object]:
    from vtp_core.run.records import RunFolder

    folder = RunFolder(done.folder)
    gallery = folder.read().gallery
    return {
        "folder": str(folder),
        "tokenizer": str(folder.tokenizer),
        "report": str(folder.report),
        "reconstructions": {"of": gallery["held_out"], "psnr": gallery["psnr"]["median"]}
        if gallery
        else None,
        "results": done.results,
    }


def _print(done: Done) -> None:
    from vtp_core.cli.results import results_text

    facts = _outcome(done)
    shown = facts["reconstructions"]
    if done.results:
        click.echo(results_text(done.results))
    elif isinstance(shown, dict):
        click.echo(f"reconstructions  median PSNR {shown['psnr']:.2f} dB, {shown['of']}")
    click.echo(f"tokenizer  {facts['tokenizer']}")
    click.echo(f"report     {facts['report']}")
