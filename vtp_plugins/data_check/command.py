"""``vtp data check``: reads data before a run does. Imports no torch."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from os.path import expanduser
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vtp_core.cli.arguments.options import plugin_option, set_option
from vtp_core.cli.arguments.tables import is_table, read_table
from vtp_core.cli.output import printable
from vtp_core.errors import DataError, UsageError
from vtp_core.recipe.history import RESOLVED
from vtp_core.recipe.shipped import shipped_recipe

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

    PATH is a recipe or the folder of a run (all its sources are checked), files that an installed source
    recognises, such as a folder of images or a pattern of tar shards in quotes, or a source's table as in a
    recipe: '{ use = "NAME", split = "val" }'. Exit code 3 if one of them holds nothing usable, or has parts
    (shards, folders) that can't be read whole.
    """
    from vtp_core.data.opening import open_source
    from vtp_core.plugins import load_plugins
    from vtp_core.run.progress import show_pass
    from vtp_plugins.data_check.check import check_source, summary

    if overrides and not any(_is_recipe(path) for path in paths):
        raise UsageError("-s changes keys of a recipe, and no PATH is a recipe")
    plugins = load_plugins(plugin_files)
    results, useless = {}, []
    broken: list[str] = []
    sources: list[tuple[str, ComponentConfig, DecodeLimits]] = []
    for path in paths:
        try:
            sources += _sources(path, overrides, plugins)
        except DataError as error:
            broken.append(str(error))
    for name, config, limits in sources:
        try:
            report = check_source(open_source(config, limits, plugins), limit, show_pass)
        except DataError as error:
            # Most errors of a source name its path already.
            said = str(error).startswith(f"{Path(expanduser(name))}: ")
            broken.append(str(error) if said else f"{name}: {error}")
            continue
        results[name] = report.as_dict()
        if not report.usable:
            useless.append(f"{name}: none of {report.read} samples is usable")
        elif report.lost:
            useless.append(f"{name}: {len(report.lost)} of its parts can't be read whole")
        if not as_json:
            click.echo("\n".join([name, *(f"  {printable(line)}" for line in summary(report))]))
    if as_json:
        click.echo(json.dumps({"sources": results, "errors": broken}, indent=2))
    if broken or useless:
        raise DataError("; ".join([*broken, *useless]))


def _is_recipe(path: str) -> bool:
    """Whether an argument is a recipe's file, the folder of a run, or the name of a shipped recipe."""
    if path.endswith(_RECIPES) or os.path.isfile(os.path.join(path, RESOLVED)):
        return True
    return not os.path.exists(path) and shipped_recipe(path) is not None


def _is_missing(path: str) -> bool:
    """Whether a plain path leads nowhere; the source that recognises a pattern or a URL looks itself."""
    other = any(sign in path for sign in "*?[{") or _SCHEME.match(path)
    return not other and not os.path.exists(expanduser(path))


def _sources(
    path: str, overrides: Sequence[str], plugins: Plugins
) -> Iterator[tuple[str, ComponentConfig, DecodeLimits]]:
    """Name, table and limits of each source that an argument means."""
    from vtp_core.data.recognition import recognise
    from vtp_core.recipe.tables.data import DecodeLimits

    if _is_recipe(path):
        yield from _of_recipe(path, overrides, plugins)
    elif is_table(path):
        yield path, read_table(path, "source", plugins), DecodeLimits()
    elif _is_missing(path):
        raise DataError(f"{path}: no such file or folder")
    else:
        yield path, recognise(path, plugins), DecodeLimits()


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
