"""``vtp init``: looks at images and writes a recipe that trains on them. Imports no torch itself."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from os.path import expanduser
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vtp_core.cli.arguments.options import json_option, plugin_option
from vtp_core.errors import DataError, UsageError

if TYPE_CHECKING:
    from vtp_core.plugins import Plugins
    from vtp_plugins.init.choice import Choice
    from vtp_plugins.init.layout import Layout
    from vtp_plugins.init.scan import Findings

_SHOWN = 5
_LEAST = 8  # images without which there is nothing to train and to hold out


@click.command()
@click.argument("path", metavar="PATH")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The recipe; default: NAME.toml, here.")
@json_option
@plugin_option
def init(path: str, output: Path | None, as_json: bool, plugin_files: tuple[Path, ...]) -> None:
    """Look at the images in PATH and write a recipe that trains a tokenizer on them.

    PATH is a folder of images, with or without a folder for each class, captions in .txt files or a table; a
    table (.csv, .jsonl, .parquet); or tar shards. The recipe runs as it is: `vtp run NAME.toml`.
    """
    from vtp_core.plugins import load_plugins
    from vtp_plugins.init.choice import choose
    from vtp_plugins.init.layout import find_layout
    from vtp_plugins.init.machine import Machine
    from vtp_plugins.init.recipe import recipe_text

    name = _name(path)
    target = output or Path(f"{name}.toml")
    if target.suffix != ".toml":
        raise UsageError(f"{target}: a recipe ends in .toml")
    if target.exists():
        raise UsageError(f"{target} exists; remove it or give another file: -o NAME.toml")
    plugins = load_plugins(plugin_files)
    layout = find_layout(path)
    train = _examine(layout.train, plugins, hold_out=layout.held_out is None)
    held = None if layout.held_out is None else _examine(layout.held_out, plugins, hold_out=False)
    if not as_json:
        click.echo(f"{path}: {layout.kind}")
        _print_findings(layout, train, held)
    readable = len(train.sides)
    if readable < _LEAST:
        raise DataError(f"{path}: {readable} images can be read, {_LEAST} are the least")
    choice = choose(train, Machine.this())
    text = recipe_text(_name(str(target.with_suffix(""))), choice, *_tables(layout, train, held))
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("x", encoding="utf-8") as file:
        file.write(text)
    if as_json:
        facts = {
            "recipe": str(target),
            "found": layout.kind,
            "images": train.total,
            "broken": train.bad | ({} if held is None else held.bad),
            "not_read": list(layout.notes),
            "chosen": dict(choice.reasons),
        }
        click.echo(json.dumps(facts, indent=2))
        return
    _print_choice(choice)
    click.echo(f"\nwrote {target}; next:\n  vtp run {target}")


def _name(path: str) -> str:
    """A run's name from a path: its last part, in letters that a name may have."""
    place = Path(expanduser(path))
    last = place.resolve().name
    stem = last if place.is_dir() else Path(last).stem
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:100] or "images"


def _examine(keys: Mapping[str, object], plugins: Plugins, *, hold_out: bool) -> Findings:
    from vtp_core.data.opening import open_source
    from vtp_core.recipe.reading.component import read_component
    from vtp_core.recipe.tables.data import DecodeLimits
    from vtp_plugins.init.scan import scan

    source = open_source(read_component("source", keys, plugins), DecodeLimits(), plugins)

    def show(indices: Iterable[int]) -> Iterable[int]:
        from rich.console import Console
        from rich.progress import track

        console = Console(stderr=True)
        return track(indices, "reading", console=console, transient=True, disable=not console.is_terminal)

    return scan(source, hold_out=hold_out, show=show)


def _tables(
    layout: Layout, train: Findings, held: Findings | None
) -> tuple[Mapping[str, object], Mapping[str, object]]:
    """Tables of the training and the held-out source, each with its part and what it leaves out."""
    if held is not None and layout.held_out is not None:
        return _table(layout.train, train), _table(layout.held_out, held)
    bound = round(1 - (train.held_out or 0.0), 6)
    return _table(layout.train, train, (0.0, bound)), _table(layout.train, train, (bound, 1.0))


def _table(
    keys: Mapping[str, object], found: Findings, part: tuple[float, float] | None = None
) -> Mapping[str, object]:
    from vtp_core.data.part import place

    low, high = part or (0.0, 1.0)
    left_out = sorted(key for key in {*found.bad, *found.dropped} if low <= place(key) < high)
    table = dict(keys)
    if part is not None:
        table["part"] = list(part)
    if left_out:
        table["exclude"] = left_out
    return table


def _print_findings(layout: Layout, train: Findings, held: Findings | None) -> None:
    for what, found in (("images", train), ("held out", held)):
        if found is None:
            continue
        part = "" if found.whole else f", {found.read} of them read"
        click.echo(f"  {what:<9} {found.total}{part}{_sizes(found)}")
        reasons = sorted(found.bad.items())
        if reasons:
            click.echo(f"  {'broken':<9} {len(reasons)}, left out")
        for key, reason in reasons[:_SHOWN]:
            click.echo(f"            {key}: {reason}")
        if len(reasons) > _SHOWN:
            click.echo(f"            and {len(reasons) - _SHOWN} more, listed in the recipe")
        if found.copies:
            click.echo(f"  {'copies':<9} {found.copies} have the pixels of another")
    if train.labels:
        common = train.labels.most_common(_SHOWN)
        shown = ", ".join(f"{_class(train, label)} {count}" for label, count in common)
        more = f" and {len(train.labels) - _SHOWN} more" if len(train.labels) > _SHOWN else ""
        click.echo(f"  {'classes':<9} {len(train.labels)}: {shown}{more}")
    if train.captions:
        count = train.captions.total()
        click.echo(f"  {'captions':<9} {count}, {len(train.captions)} of them different")
    for note in layout.notes:
        click.echo(f"  {'not read':<9} {note}")


def _sizes(found: Findings) -> str:
    if not found.sides:
        return ""
    widths, heights = zip(*found.sides, strict=True)
    low, high = f"{min(widths)}x{min(heights)}", f"{max(widths)}x{max(heights)}"
    return f", {low} pixels" if low == high else f", {low} to {high} pixels"


def _class(found: Findings, label: int) -> str:
    return found.classes[label] if label < len(found.classes) else str(label)


def _print_choice(choice: Choice) -> None:
    click.echo("chosen")
    for what, why in choice.reasons:
        click.echo(f"  {what:<9} {why}")
