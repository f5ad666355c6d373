"""``vtp codebook predict``: the use of a codebook from an encoder's features, before any training."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from vtp_core.cli.arguments.held_out import read_held_out
from vtp_core.cli.arguments.options import (
    device_option,
    json_option,
    plugin_option,
    tokenizer_argument,
    torch_device,
)
from vtp_core.cli.output import table
from vtp_core.errors import UsageError
from vtp_core.plugins import load_plugins
from vtp_core.recipe import load_recipe
from vtp_core.recipe.history import RESOLVED


@click.group()
def codebook() -> None:
    """Codebooks of an encoder's features."""


@codebook.command()
@tokenizer_argument
@click.option("--source", metavar="TABLE", help="Images. Default: the training data of the run.")
@click.option("--codes", type=click.IntRange(2, 2**20), default=1024, show_default=True, help="Codes K.")
@click.option("--layer", type=click.IntRange(min=0), help="Block to tap. Default: the encoder's output.")
@click.option("--images", type=click.IntRange(min=4), default=512, show_default=True, help="Images to read.")
@click.option(
    "--tokens", type=click.IntRange(min=1), default=32, show_default=True, help="Patches of each image."
)
@device_option
@json_option
@plugin_option
def predict(
    tokenizer: str,
    source: str | None,
    codes: int,
    layer: int | None,
    images: int,
    tokens: int,
    device: str,
    as_json: bool,
    plugin_files: tuple[Path, ...],
) -> None:
    """Predict how a codebook of K codes on the features of TOKENIZER's encoder would be used.

    TOKENIZER is the folder of a run or of a tokenizer, or the name of one that ships. Prints effective
    dimensions, the spread of distances, the expected use, perplexity and error of held-out vectors for three
    metrics with k-means++ and revival and for the plain one without (bare), and what follows for a recipe.
    """
    from vtp_core.artefact.finding import find_tokenizer
    from vtp_core.artefact.loading import load
    from vtp_core.data.opening import Sources
    from vtp_core.evaluation.opening import open_set
    from vtp_plugins.codebook.forecast import METRICS, advice, forecast
    from vtp_plugins.codebook.vectors import read_vectors

    plugins = load_plugins(plugin_files)
    folder = find_tokenizer(tokenizer, plugins)
    if source is not None:
        config = read_held_out(source, plugins)
        sources = Sources(plugins)
    elif (folder.parent / RESOLVED).is_file():
        recipe = load_recipe(folder.parent, plugins=plugins)
        config, sources = recipe.data.source, Sources(plugins, recipe.data.decode)
    else:
        raise UsageError("which images? name them with --source PATH, or give the folder of a run")
    if config is None:
        raise UsageError("the run's recipe has no [data.source]; name images with --source PATH")
    data = open_set(config, sources, images)
    model = load(folder, plugins=plugins).to(torch_device(device))
    vectors = read_vectors(model, data, layer=layer, tokens=tokens)
    count, width = vectors.shape[:2].numel(), vectors.shape[2]
    if count < 4 * codes:
        click.echo(
            f"warning: {count} vectors for {codes} codes; use is underestimated, read more --images",
            err=True,
        )
    found = [forecast(vectors, codes, "plain", bare=True)]
    found += [forecast(vectors, codes, metric) for metric in METRICS]
    if as_json:
        lines = {"codes": codes, "vectors": count, "width": width, "source": data.name}
        click.echo(json.dumps({**lines, "forecasts": [asdict(each) for each in found]}, indent=2))
        return
    click.echo(f"{count} vectors of width {width} from {data.name}, {codes} codes")
    rows: list[tuple[str, ...]] = [
        ("metric", "axes", "d_eff", "spread", "measured", "use", "perplexity", "error", "above bound")
    ]
    rows += [
        (
            f"{each.metric}, bare" if each.bare else each.metric,
            str(each.axes),
            f"{each.d_eff:.1f}",
            f"{each.spread:.2f}",
            f"{each.measured_spread:.2f}",
            f"{100 * each.use:.0f} %",
            f"{each.perplexity:.0f}",
            f"{each.error:.3f}",
            f"{each.above_bound_db:+.1f} dB",
        )
        for each in found
    ]
    click.echo(table(rows))
    click.echo(advice(found, codes))
