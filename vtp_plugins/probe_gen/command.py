"""``vtp probe-gen``: ranks tokenizers by what a small generator makes of their latents. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from pydantic import ValidationError

from vtp_core.cli.arguments import completion
from vtp_core.cli.arguments.options import (
    changes_option,
    device_option,
    json_option,
    plugin_option,
    read_changes,
    torch_device,
)
from vtp_core.cli.output import check_folder
from vtp_core.errors import UsageError
from vtp_plugins.probe_gen.config import ProbeSettings

if TYPE_CHECKING:
    from vtp_core.config import ComponentConfig
    from vtp_core.plugins import Plugins
    from vtp_core.recipe.tables.data import DecodeLimits
    from vtp_plugins.probe_gen.measure import Subject
    from vtp_plugins.probe_gen.record import Record

FOLDER = Path("runs/probe-gen")


@click.command("probe-gen")
@click.argument(
    "tokenizers", metavar="TOKENIZER...", nargs=-1, required=True, shell_complete=completion.tokenizers
)
@click.option("-r", "--recipe", metavar="RECIPE", help="Take the training data of this recipe or run.")
@click.option("--source", metavar="TABLE", help="Images, in place of a recipe's.")
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Proxies trained for each tokenizer.",
)
@click.option(
    "--curve", is_flag=True, help="Measure at five training steps; print the steps to one distance."
)
@click.option(
    "--reach", type=float, metavar="K", help="With --curve: epochs to a Fréchet distance K (EP_FID@K)."
)
@changes_option("Change a setting of the proxy, such as steps=100; the protocol says so.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=FOLDER,
    show_default=True,
    help="Folder of records; what it has is not measured again.",
)
@device_option
@json_option
@plugin_option
def probe_gen(
    tokenizers: tuple[str, ...],
    recipe: str | None,
    source: str | None,
    seeds: int,
    curve: bool,
    reach: float | None,
    changes: tuple[str, ...],
    output: Path,
    device: str,
    as_json: bool,
    plugin_files: tuple[Path, ...],
) -> None:
    """Rank tokenizers by how well a small generator learns their latents.

    TOKENIZER is the folder of a run, one of its checkpoints, the folder of a tokenizer, or the name of one
    that ships. On the latents of each, the same small transformer is trained by flow matching, from the same
    seeds on the same images; the ranking is by the kernel distance of its decoded samples to these images.

    TABLE is a source's name, a path that it recognises, or an inline table as in a recipe. By default the
    images are the training data of the tokenizers' runs, which must then be the same.
    """
    from vtp_core.artefact.finding import find_tokenizer
    from vtp_core.plugins import load_plugins

    check_folder("--output", output)
    if reach is not None and not curve:
        raise UsageError("--reach needs --curve")
    if repeated := next((name for name in tokenizers if tokenizers.count(name) > 1), None):
        raise UsageError(f"{repeated} is named twice")
    settings = read_settings(changes)
    plugins = load_plugins(plugin_files)
    folders = {name: find_tokenizer(name, plugins) for name in tokenizers}
    config, limits = _source(folders, recipe, source, plugins)

    from vtp_core.artefact.loading import load
    from vtp_core.data.opening import Sources
    from vtp_core.evaluation.opening import open_set
    from vtp_core.run.progress import show_pass
    from vtp_core.view import size_text
    from vtp_plugins.probe_gen.measure import Probe
    from vtp_plugins.probe_gen.record import Records
    from vtp_plugins.probe_gen.text import as_data, as_text

    place = torch_device(device)
    probe = Probe(open_set(config, Sources(plugins, limits)), settings, place, show_pass)

    def subject(name: str) -> Subject:
        """A tokenizer, loaded; only one at a time is in memory."""
        return probe.subject(load(folders[name], plugins=plugins).to(place), name)

    # All are checked before the first is trained on.
    sizes = {name: size_text(subject(name).size) for name in tokenizers}
    if len({*sizes.values()}) > 1:
        listed = ", ".join(f"{name} {size} px" for name, size in sizes.items())
        raise UsageError(f"tokenizers of different image sizes can't be compared: {listed}")
    records = Records(output)
    measured: dict[str, list[Record]] = {}
    for name in tokenizers:
        measured[name] = []
        taken = subject(name)
        for seed in range(seeds):
            steps = taken.steps(curve=curve)
            found = records.find(taken.fingerprint, seed, taken.protocol, taken.images, steps)
            if found is None:
                click.echo(f"{name}, seed {seed}", err=True)
                found = taken.measure(seed, curve=curve)
                records.write(found)
            measured[name].append(found)
    if as_json:
        click.echo(json.dumps(as_data(measured, curve=curve, reach=reach), indent=2))
    else:
        click.echo(as_text(measured, curve=curve, reach=reach))


def read_settings(changes: Sequence[str]) -> ProbeSettings:
    """The settings with changes ``KEY=VALUE``.

    Raises:
        UsageError: There is no such setting, or a value does not fit.
    """
    try:
        return ProbeSettings.model_validate(read_changes(changes))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "settings"
        known = ", ".join(ProbeSettings.model_fields)
        why = f"unknown; the settings are {known}" if first["type"] == "extra_forbidden" else first["msg"]
        raise UsageError(f"--set {key}: {why}") from error


def _source(
    folders: dict[str, Path], recipe: str | None, source: str | None, plugins: Plugins
) -> tuple[ComponentConfig, DecodeLimits | None]:
    """The table of the images: as it is given, of the recipe, or of the tokenizers' runs.

    Raises:
        UsageError: None is known, or the runs have different ones.
    """
    from vtp_core.artefact.finding import run_of_checkpoint
    from vtp_core.cli.arguments.held_out import read_source
    from vtp_core.recipe import load_recipe
    from vtp_core.recipe.history import RESOLVED

    if source is not None and recipe is not None:
        raise UsageError("--source and --recipe both name images; give one of them")
    if source is not None:
        return read_source(source, plugins), None
    if recipe is not None:
        loaded = load_recipe(recipe, plugins=plugins)
        return loaded.data.source, loaded.data.decode
    found = {}
    for name, folder in folders.items():
        run = run_of_checkpoint(folder) or folder.parent
        if not (run / RESOLVED).is_file():
            raise UsageError(
                f"{name} does not belong to a run, so its images are unknown; name them with --source"
            )
        found[name] = load_recipe(run, plugins=plugins).data
    names = [*found]
    for name in names[1:]:
        if found[name].source != found[names[0]].source:
            raise UsageError(
                f"{names[0]} and {name} were trained on different images; name those to compare on with "
                "--source"
            )
    return found[names[0]].source, found[names[0]].decode
