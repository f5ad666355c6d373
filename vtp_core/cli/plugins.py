"""``vtp plugins list`` and ``vtp plugins show``: what is installed, what works, which keys it has."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from vtp_core.cli.arguments.options import plugin_option
from vtp_core.cli.output import table
from vtp_core.errors import UsageError
from vtp_core.plugins import KINDS, Component, Kind, Plugins, load_plugins
from vtp_core.plugins.component import import_path
from vtp_core.plugins.manager import owner
from vtp_core.recipe.writing.describe import ConfigKey, config_keys


@click.group()
def plugins() -> None:
    """What is installed: components, and plugins that failed to load."""


@plugins.command("list")
@click.option("--kind", type=click.Choice(KINDS), help="Only components of this kind.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--strict", is_flag=True, help="Fail if a plugin failed to load.")
@plugin_option
def list_(kind: Kind | None, as_json: bool, strict: bool, plugin_files: tuple[Path, ...]) -> None:
    """Lists components and the plugins that failed.

    VTP_PLUGINS=clip,vit restricts what is loaded to these plugins.
    """
    found = load_plugins(plugin_files, record_broken_files=True, try_first="loading")
    components = found.components(kind)
    if as_json:
        click.echo(json.dumps(_listing(found, components), indent=2))
    else:
        click.echo(table([("kind", "name", "plugin", "summary"), *(_row(item) for item in components)]))
        for plugin in found:
            for notice in plugin.notices:
                click.echo(f"note: {owner(plugin)} {notice} while loading")
        for failure in found.failures:
            click.echo(f"failed: {failure}")
    if strict and found.failures:
        raise UsageError(f"{len(found.failures)} of the plugins failed to load (--strict)")


@plugins.command()
@click.argument("name")
@click.option("--kind", type=click.Choice(KINDS), help="Needed only if several kinds have that name.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@plugin_option
def show(name: str, kind: Kind | None, as_json: bool, plugin_files: tuple[Path, ...]) -> None:
    """Shows one component: where it comes from and the keys of its recipe table."""
    found = load_plugins(plugin_files)
    matches = [item for item in found.components(kind) if item.name == name]
    if not matches:
        found.find(kind or _likely_kind(found, name), name)
    described = [(item, _keys(item)) for item in matches]
    if as_json:
        shown = [_as_dict(item) | {"keys": [asdict(key) for key in keys]} for item, keys in described]
        click.echo(json.dumps(shown if len(shown) > 1 else shown[0], indent=2))
        return
    for item, keys in described:
        _print_component(item, keys)


def _likely_kind(found: Plugins, name: str) -> Kind:
    """The kind of the component whose name is nearest: it decides the advice for an unknown name."""
    close = difflib.get_close_matches(name, [item.name for item in found.components()], 1)
    return next((item.kind for item in found.components() if item.name in close), "objective")


def _keys(item: Component) -> list[ConfigKey]:
    return [key for key in config_keys(item.load_config()) if key.key != "use"]


def _row(item: Component) -> tuple[str, str, str, str]:
    version = " ".join(filter(None, (item.distribution or item.plugin, item.version)))
    return item.kind, item.name, version, item.summary


def _as_dict(item: Component) -> dict[str, str | None]:
    return {
        "kind": item.kind,
        "name": item.name,
        "summary": item.summary,
        "plugin": item.plugin,
        "distribution": item.distribution,
        "version": item.version,
        "target": import_path(item.target),
        "config": None if item.config is None else import_path(item.config),
    }


def _listing(found: Plugins, components: Sequence[Component]) -> dict[str, object]:
    return {
        "components": [_as_dict(item) for item in components],
        "plugins": [
            {
                "name": plugin.name,
                "distribution": plugin.distribution,
                "version": plugin.version,
                "notices": list(plugin.notices),
            }
            for plugin in found
        ],
        "failures": [asdict(failure) for failure in found.failures],
        "left_out": found.left_out,
    }


def _print_component(item: Component, keys: Sequence[ConfigKey]) -> None:
    version = " ".join(filter(None, (item.distribution or item.plugin, item.version)))
    click.echo(f"{item.kind} {item.name}: {item.summary}")
    click.echo(f"from {version}, {import_path(item.target)}")
    click.echo(f'use = "{item.name}"')
    if not keys:
        click.echo("It has no keys of its own.")
    for key in keys:
        default = "required" if key.required else "unset" if key.default is None else json.dumps(key.default)
        click.echo(f"\n  {key.key}: {key.type}" + (" (required)" if key.required else f" = {default}"))
        if key.doc:
            click.echo(f"      {key.doc}")
