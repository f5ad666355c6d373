"""``vtp export``: writes the tokenizer of a run or a folder as an artefact or in another format."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from vtp_core.cli.arguments import completion
from vtp_core.cli.arguments.options import json_option, plugin_option
from vtp_core.cli.output import check_folder
from vtp_core.errors import UsageError

if TYPE_CHECKING:
    from vtp_core.artefact.compact import Storage
    from vtp_core.artefact.critics import Critic
    from vtp_core.plugins import Plugins
    from vtp_core.run.records import RunFolder
    from vtp_core.tokenizer import Tokenizer

OWN_FORMAT = "artefact"


@click.command()
@click.argument("source", shell_complete=completion.tokenizers)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--weights",
    type=click.Choice(["student", "teacher"]),
    default="student",
    show_default=True,
    help="The trained weights, or their moving average.",
)
@click.option(
    "--format",
    "format_name",
    default=OWN_FORMAT,
    show_default=True,
    metavar="NAME",
    help="The artefact format, or a plugin's (`vtp plugins list --kind format`).",
)
@click.option(
    "--storage",
    type=click.Choice(["full", "bfloat16", "int8"]),
    default="full",
    show_default=True,
    help="Weights as trained, or rounded to a half or about a quarter of the bytes; artefact format only.",
)
@click.option(
    "--with",
    "extra",
    type=click.Choice(["critics"]),
    help="Also store the run's critics, for init_from of a later stage; artefact format only.",
)
@click.option("--statistics/--no-statistics", default=True, help="Measure mean and deviation of the latents.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    help="Samples for that; default: 2,000, which a CPU encodes in reasonable time.",
)
@json_option
@plugin_option
def export(
    source: str,
    folder: Path,
    weights: Literal["student", "teacher"],
    format_name: str,
    storage: Storage,
    extra: Literal["critics"] | None,
    statistics: bool,
    limit: int | None,
    as_json: bool,
    plugin_files: tuple[Path, ...],
) -> None:
    """Write the tokenizer of SOURCE to FOLDER.

    SOURCE is a run folder, of which the newest checkpoint is taken, one of its checkpoints
    (RUN/checkpoints/best), a tokenizer's folder, or the name of a tokenizer that ships. Of a run, statistics
    of the latents are measured, if the format holds them.
    """
    from vtp_core.artefact.finding import find_tokenizer
    from vtp_core.plugins import load_plugins
    from vtp_core.recipe.tokenizers import locate
    from vtp_core.run.records import RunFolder

    check_folder("FOLDER", folder)
    plugins = load_plugins(plugin_files)
    own = format_name == OWN_FORMAT
    if own and folder.is_dir() and any(folder.iterdir()) and not (folder / "config.json").is_file():
        raise UsageError(f"{folder}: holds something other than a tokenizer; choose another folder")
    if not own:
        plugins.find("format", format_name)
        if storage != "full":
            raise UsageError(f"--storage {storage}: format {format_name} has its own storage; leave it out")
        if extra is not None:
            raise UsageError(f"--with {extra}: format {format_name} has no place for them; leave it out")
    run = RunFolder.holding(path := locate(source, plugins))
    if not run.exists():
        found = find_tokenizer(source, plugins)
        if weights == "teacher":
            raise UsageError(f"{source}: a tokenizer holds no teacher; give the run folder")
        if extra is not None:
            raise UsageError(
                f"{source}: --with {extra}: a tokenizer has none of its own; give the run folder"
            )

    from vtp_core.artefact.card import write_card
    from vtp_core.artefact.folder import write_artefact
    from vtp_core.artefact.loading import find_format, load
    from vtp_core.report.card import training_of
    from vtp_core.run.progress import show_pass

    writer = None if own else find_format(format_name, plugins)
    if (check_packages := getattr(writer, "check_packages", None)) is not None:
        check_packages()
    critics = None if extra is None else _critics(run, path, plugins)
    if run.exists():
        holds = writer is None or getattr(writer, "holds_statistics", False)
        model, origin = _of_run(run, path, weights, plugins, limit, statistics=statistics and holds)
    else:
        model, origin = load(found, plugins=plugins), source
    with show_pass(f"writing {folder}"):
        if writer is None:
            write_artefact(model, folder, storage, critics)
            if run.exists() and model.config is not None:
                write_card(model, model.config, folder, training_of(run.read(), model.config))
        else:
            with warnings.catch_warnings(record=True) as notes:
                warnings.simplefilter("always", UserWarning)
                writer.write(model, folder)
            for note in notes:
                click.echo(f"note: {note.message}", err=True)
    if as_json:
        facts = {"folder": str(folder.absolute()), "format": format_name, "of": origin}
        click.echo(json.dumps(facts, indent=2))
    else:
        click.echo(f"{folder.absolute()}: {origin}")


def _critics(run: RunFolder, source: Path, plugins: Plugins) -> dict[str, Critic]:
    """Those of the checkpoint that `source` means."""
    from vtp_core.artefact.critics import critics_of
    from vtp_core.recipe import load_recipe
    from vtp_core.training.saving.folder import find_latest

    return critics_of(find_latest(source).path, load_recipe(run.recipe, plugins=plugins), plugins)


def _of_run(
    run: RunFolder,
    source: Path,
    weights: Literal["student", "teacher"],
    plugins: Plugins,
    limit: int | None,
    *,
    statistics: bool,
) -> tuple[Tokenizer, str]:
    """The tokenizer of the checkpoint that `source` means, with statistics; and its name."""
    from vtp_core.artefact.assembly import training_modules
    from vtp_core.artefact.from_recipe import newest_tokenizer
    from vtp_core.data.opening import Sources
    from vtp_core.evaluation.latents import CPU_SAMPLES, measure_latents
    from vtp_core.evaluation.opening import open_set
    from vtp_core.recipe import load_recipe
    from vtp_core.run.progress import show_pass
    from vtp_core.run.setup.generators import with_class_names
    from vtp_core.run.setup.statistics import with_statistics

    recipe = load_recipe(run.recipe, plugins=plugins)
    model, without, checkpoint = newest_tokenizer(source, recipe, plugins, weights)
    if without and without == [name for name, part in training_modules(model).items() if part.state_dict()]:
        raise UsageError(f"{run}: no part of the tokenizer has a teacher; export the student")
    for name in without:
        click.echo(f"note: {name} has no teacher, its trained weights are exported", err=True)
    sources = Sources(plugins, recipe.data.decode)
    if model.config is not None:
        model.config = with_class_names(model.config, recipe, sources)
    if statistics and limit is not None:
        data = open_set(recipe.data.source, sources, limit)
        model.config = measure_latents(model, data, show=show_pass)
    elif statistics:
        model.config = with_statistics(model, recipe, sources, plugins, CPU_SAMPLES, show=show_pass)
    return model, f"{weights} of {checkpoint}"
