"""``vtp data check``: reads data before a run does. Imports no torch."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vtp_core.cli.options import plugin_option, set_option
from vtp_core.errors import DataError, UsageError

if TYPE_CHECKING:
    from vtp_core.config import ComponentConfig
    from vtp_core.plugins import Plugins
    from vtp_core.recipe.tables.data import DecodeLimits

_RECIPES = (".toml",)
_SCHEME = re.compile(r"[A-Za-z]{2,}:")


@click.group()
def data() -> None:
    """Check data before training on it."""


@data.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Read at most N samples a source.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@set_option
@plugin_option
def check(
    paths: Sequence[str],
    limit: int | None,
    as_json: bool,
    overrides: Sequence[str],
    plugin_files: Sequence[Path],
) -> None:
    """Reads samples and says what is wrong with them.

    PATH is a recipe (all its sources are checked), tar shards (braces and wildcards in quotes), a folder of
    tar shards, or a folder of images. Exit code 3 if one of them holds nothing usable.
    """
    from vtp_core.data.check import check_source, summary
    from vtp_core.data.opening import open_source
    from vtp_core.plugins import load_plugins

    if overrides and not any(path.endswith(_RECIPES) for path in paths):
        raise UsageError("-s changes keys of a recipe, and no PATH is a recipe (.toml)")
    plugins = load_plugins(plugin_files)
    results, useless = {}, []
    missing = [path for path in paths if _is_missing(path)]
    broken = [f"{path}: no such file or folder" for path in missing]
    there = [path for path in paths if path not in missing]
    for name, config, limits in _sources(there, overrides, plugins):
        try:
            report = check_source(open_source(config, limits, plugins), limit)
        except DataError as error:
            # Most errors of a source name its path already.
            said = str(error).startswith(f"{Path(name).expanduser()}: ")
            broken.append(str(error) if said else f"{name}: {error}")
            continue
        results[name] = report.as_dict()
        if not report.usable:
            useless.append(f"{name}: none of {report.read} samples is usable")
        if not as_json:
            click.echo("\n".join([name, *(f"  {line}" for line in summary(report))]))
    if as_json:
        click.echo(json.dumps({"sources": results, "errors": broken}, indent=2))
    if broken or useless:
        raise DataError("; ".join([*broken, *useless]))


def _is_missing(path: str) -> bool:
    """Whether a plain path leads nowhere; patterns and recipes are looked at by those who read them."""
    other = path.endswith(_RECIPES) or any(sign in path for sign in "*?[{") or _SCHEME.match(path)
    return not other and not Path(path).expanduser().exists()


def _sources(
    paths: Sequence[str], overrides: Sequence[str], plugins: Plugins
) -> Iterator[tuple[str, ComponentConfig, DecodeLimits]]:
    """Name, table and limits of each source that the paths mean."""
    from vtp_core.recipe.reading.component import read_component
    from vtp_core.recipe.tables.data import DecodeLimits

    for path in paths:
        if path.endswith(_RECIPES):
            yield from _of_recipe(path, overrides, plugins)
            continue
        table = {"use": "webdataset", "urls": path}
        if Path(path).is_dir():
            shards = any(Path(path).glob("*.tar"))
            table = table | {"urls": f"{path}/*.tar"} if shards else {"use": "image_folder", "path": path}
        yield path, read_component("source", table, plugins), DecodeLimits()


def _of_recipe(
    path: str, overrides: Sequence[str], plugins: Plugins
) -> Iterator[tuple[str, ComponentConfig, DecodeLimits]]:
    from vtp_core.recipe import load_recipe

    recipe = load_recipe(path, overrides, plugins)
    named = {
        "data.source": recipe.data.source,
        **{f"data.sources.{name}": config for name, config in recipe.data.sources.items()},
        "evaluate.source": recipe.evaluate.source,
        "evaluate.train_source": recipe.evaluate.train_source,
    }
    for name, config in named.items():
        if config is not None:
            yield f"{path} {name}", config, recipe.data.decode
