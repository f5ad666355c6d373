"""``vtp export``: the tokenizer of a run's checkpoint, as an artefact."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from vtp_core.cli.options import plugin_option
from vtp_core.errors import UsageError


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--weights",
    type=click.Choice(["student", "teacher"]),
    default="student",
    show_default=True,
    help="The trained weights, or their moving average.",
)
@click.option("--statistics/--no-statistics", default=True, help="Measure mean and deviation of the latents.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=10_000,
    show_default=True,
    help="Samples for that.",
)
@plugin_option
def export(
    run: Path,
    folder: Path,
    weights: Literal["student", "teacher"],
    statistics: bool,
    limit: int,
    plugin_files: tuple[Path, ...],
) -> None:
    """Write the tokenizer of the newest checkpoint of RUN to FOLDER."""
    from vtp_core.artefact.from_recipe import tokenizer_from_checkpoint
    from vtp_core.evaluation.latents import measure_latents
    from vtp_core.evaluation.opening import open_set
    from vtp_core.plugins import load_plugins
    from vtp_core.recipe import load_recipe
    from vtp_core.training.checkpoint_folder import find_latest
    from vtp_core.training.manifest import read_manifest

    recipe_file = run / "resolved.toml"
    if not recipe_file.is_file():
        raise UsageError(f"{run}: not a run folder (no resolved.toml); give one that `vtp run` wrote")
    plugins = load_plugins(plugin_files)
    recipe = load_recipe(recipe_file, plugins=plugins)
    checkpoint = find_latest(run)
    model, without = tokenizer_from_checkpoint(
        checkpoint, recipe, plugins, step=read_manifest(checkpoint).step, weights=weights
    )
    if "tokenizer.encoder" in without:
        raise UsageError(f"{run}: no teacher of the encoder; the recipe keeps none, export the student")
    for name in without:
        click.echo(f"note: {name} has no teacher, its trained weights are exported", err=True)
    if statistics:
        data = open_set(recipe.data.source, plugins, recipe.data.decode, limit, skip_bad=True)
        model.config = measure_latents(model, data)
    click.echo(f"{model.save(folder)}: {weights} of {checkpoint.name}")
