"""``vtp generate``: images of a generator, each a function of (seed, number)."""

from __future__ import annotations

import re
from pathlib import Path

import click

from vtp_core.cli.arguments.options import (
    changes_option,
    device_option,
    json_option,
    plugin_option,
    read_changes,
    tokenizer_argument,
    torch_device,
)
from vtp_core.cli.output import check_file, check_folder
from vtp_core.errors import UsageError
from vtp_core.plugins import load_plugins

GRID = "generated.png"


@click.command()
@tokenizer_argument
@click.option("-n", "--number", type=click.IntRange(min=1), default=64, show_default=True, help="Images.")
@click.option(
    "--classes",
    metavar="LIST",
    help="Names or numbers with commas between, in turn, or `all`. Default: as often as in training.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of all samples.")
@click.option("--steps", type=click.IntRange(min=1), help="Steps of the sampler.")
@click.option("--guidance", type=float, help="Weight of the class; 1: no guidance.")
@click.option("--sampler", metavar="NAME", help="How the flow is integrated, such as euler or heun.")
@changes_option("Another setting of the generator; the value is JSON, else a string.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder of PNG files and a record.")
@click.option(
    "--grid",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help=f"One picture of all samples; {GRID} if there is no --output either.",
)
@click.option("--decoder", metavar="TOKENIZER", help="Decode with another one of the same latents.")
@click.option("--rows", type=click.IntRange(min=1), default=64, show_default=True, help="Images at a time.")
@device_option
@json_option
@plugin_option
def generate(
    tokenizer: str,
    number: int,
    classes: str | None,
    seed: int,
    steps: int | None,
    guidance: float | None,
    sampler: str | None,
    changes: tuple[str, ...],
    output: Path | None,
    grid: Path | None,
    decoder: str | None,
    rows: int,
    device: str,
    as_json: bool,
    plugin_files: tuple[Path, ...],
) -> None:
    """Generate images with the generator that was trained on TOKENIZER's latents.

    TOKENIZER is the folder of a run or of a tokenizer. Image i depends on (seed, i) and its class alone. With
    --classes the picture has one row a class.
    """
    from vtp_core.artefact.finding import find_tokenizer

    if output is None and grid is None:
        grid = Path(GRID)
    if output is not None:
        check_folder("--output", output)
    check_file("--grid", grid)
    named = {"steps": steps, "guidance": guidance, "sampler": sampler}
    settings, changed = (
        {key: value for key, value in named.items() if value is not None},
        read_changes(changes),
    )
    for key in settings.keys() & changed.keys():
        raise UsageError(f"--{key} and --set {key} both set it; give one of them")
    settings |= changed
    plugins = load_plugins(plugin_files)
    folder = find_tokenizer(tokenizer, plugins)
    other = None if decoder is None else find_tokenizer(decoder, plugins)

    from PIL import Image

    from vtp_core.artefact.fingerprint import name_of, require_same
    from vtp_core.artefact.loading import load
    from vtp_core.atomic import replacing_file
    from vtp_plugins.generate.record import SampleSet, check_files, earlier_set
    from vtp_plugins.generate.samples import Request, make_samples, plan_samples

    place = torch_device(device)
    model = load(folder, plugins=plugins).to(place)
    if "generate" not in model.capabilities:
        raise UsageError(
            f"{tokenizer} has no generator; train one on its latents, as recipes/quickstart_dit.toml does"
        )
    own = name_of(model)
    decoding = model
    if other is not None:
        decoding = load(other, plugins=plugins).to(place)
        require_same(f"the generator of {tokenizer}", own, name_of(decoding))
    earlier = None if output is None else earlier_set(output, own)
    if output is not None:
        check_files(output, earlier)
    request = Request(number=number, seed=seed, rows=rows, settings=settings, classes=classes)
    plan = plan_samples(model, decoding, request)
    layout = None if grid is None else plan.layout()
    if layout is not None and grid is not None:
        layout.check(grid)
    facts = SampleSet(
        tokenizer=own,
        seed=seed,
        settings=plan.settings,
        classes=None if plan.classes is None else plan.titles,
        images=number,
        folder=None if output is None else str(output),
        grid=None if grid is None else str(grid),
    )
    files = [_file_name(index, title) for index, title in enumerate(plan.titles)]
    shown = []
    for name, image in zip(files, make_samples(model, decoding, request, plan.classes), strict=True):
        if layout is not None:
            shown.append(image)
        if output is not None:
            if earlier is not None:  # not before there is something to replace it with
                earlier.remove(output)
                earlier = None
            output.mkdir(parents=True, exist_ok=True)
            image.save(output / name)
    if output is not None:
        facts.model_copy(update={"files": files}).write(output)
    if layout is not None and grid is not None:
        grid.parent.mkdir(parents=True, exist_ok=True)
        with replacing_file(grid) as file:
            layout.draw(shown).save(file, Image.registered_extensions()[grid.suffix.lower()])
    if as_json:
        click.echo(facts.model_dump_json(indent=2, exclude={"files"}))
        return
    for place_of in (output, grid):
        if place_of is not None:
            click.echo(f"{place_of}: {number} images of {own.name or tokenizer}, seed {seed}")


def _file_name(index: int, title: str) -> str:
    """Name of a sample's file; a class name from a file can't leave the folder."""
    safe = re.sub(r"[^A-Za-z0-9_-]+", "_", title)[:60].strip("_")
    return f"{index:06d}-{safe}.png" if safe else f"{index:06d}.png"
