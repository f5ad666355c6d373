"""Renamed recipe keys and metrics, applied when files of older versions are read. Imports no torch.

Checkpoint manifests, artefacts, ``resolved.toml`` and ``metrics.jsonl`` are updated on reading. In a recipe
that a person wrote, an old key is an error that gives the new one. A component declares its renamed keys in
`vtp_core.config.ComponentConfig.key_history`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vtp_core.config import KeyHistory
from vtp_core.recipe.problems import dotted
from vtp_core.recipe.reading.keys import component_tables, config_class
from vtp_core.recipe.tables.recipe import Recipe
from vtp_core.recipe.toml_lines import Path

if TYPE_CHECKING:
    from vtp_core.plugins import Plugins
    from vtp_core.plugins.hookspecs import Kind

CORE = KeyHistory(
    renamed={"ema.twins": "ema.networks"},
    added={"init_from.match": "all", "init_from.resample": False},
)
"""Keys of the core's own tables."""

RESOLVED = "resolved.toml"
"""Name of the file in a run folder with the whole recipe; a run wrote it, so it may have old keys."""

METRICS: Mapping[str, str] = {"grad_share/": "grad_norm_at/"}
"""Old prefix of metric names -> new prefix."""


@dataclass(frozen=True)
class Change:
    """One key or value that was updated.

    Attributes:
        old: Path of the key as it was.
        new: Path of the key as it is.
        message: What to write instead.
    """

    old: Path
    new: Path
    message: str


def update_recipe(recipe: dict[str, Any], plugins: Plugins, *, added: bool = True) -> list[Change]:
    """Updates the plain values of a recipe in place.

    Args:
        recipe: TOML or JSON data; values of a wrong type are left as they are.
        plugins: For the config classes of components.
        added: Whether missing keys that were added later get the values of `KeyHistory.added`.
    """
    changes = _update_components(Recipe, recipe, plugins, added)
    return changes + _update(CORE, recipe, (), added)


def update_table(kind: Kind, table: Mapping[str, Any], plugins: Plugins) -> dict[str, Any]:
    """An updated copy of a component's table from an older file."""
    copied: dict[str, Any] = copy.deepcopy(dict(table))
    _update_components(config_class(kind, copied, plugins), copied, plugins, added=True)
    return copied


def current_metrics(line: Mapping[str, Any]) -> dict[str, Any]:
    """A line of ``metrics.jsonl`` with the current names of metrics."""
    return {_current_metric(name): value for name, value in line.items()}


def _current_metric(name: str) -> str:
    for old, new in METRICS.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def _update_components(annotation: Any, value: Any, plugins: Plugins, added: bool) -> list[Change]:
    changes = []
    # Nested tables first: renaming a key of an outer table would change their paths.
    for path, config in reversed(list(component_tables(annotation, value, plugins))):
        table = value
        for part in path:
            table = table[part]
        for base in config.__mro__:  # of the plugin's class, then of the core's
            if isinstance(history := vars(base).get("key_history"), KeyHistory):
                changes += _update(history, table, path, added)
    return changes


def _update(history: KeyHistory, table: dict[str, Any], base: Path, added: bool) -> list[Change]:
    """Applies a table's history to its plain values; `base` is the path of the table itself."""
    changes = []
    for old, new in history.renamed.items():
        for parent, place in _parents(table, old):
            names = iter(part for part, asked in zip(place, old.split("."), strict=True) if asked == "*")
            target = tuple(next(names) if part == "*" else part for part in new.split("."))
            value = parent.pop(place[-1])
            _inner(table, target[:-1]).setdefault(target[-1], value)
            shown = target[-1] if target[:-1] == place[:-1] else dotted((*base, *target))
            changes.append(Change((*base, *place), (*base, *target), f'renamed; write "{shown}"'))
    for key, values in history.values.items():
        for parent, place in _parents(table, key):
            changes += _replaced(values, parent, (*base, *place))
    if added:
        for key, value in history.added.items():
            for parent, place in _parents(table, key, there=False):
                parent[str(place[-1])] = copy.deepcopy(value)
    return changes


def _replaced(values: Mapping[str, str], parent: Any, path: Path) -> Iterator[Change]:
    """Replaces an old value at the end of `path`, or each one in the list there."""
    given = parent[path[-1]]
    if isinstance(given, list):
        for index in range(len(given)):
            yield from _replaced(values, given, (*path, index))
    elif isinstance(given, str) and given in values:
        parent[path[-1]] = values[given]
        yield Change(path, path, f'"{given}" was renamed; write "{values[given]}"')


def _parents(
    table: dict[str, Any], key: str, *, there: bool = True
) -> list[tuple[dict[str, Any], tuple[str, ...]]]:
    """Tables that have a key (or, unless `there`, lack it), each with the key's path."""
    *outer, last = key.split(".")
    found: list[tuple[dict[str, Any], tuple[str, ...]]] = [(table, ())]
    for part in outer:
        found = [
            (inner, (*path, name))
            for parent, path in found
            for name, inner in parent.items()
            if part in ("*", name) and isinstance(inner, dict)
        ]
    return [(parent, (*path, last)) for parent, path in found if (last in parent) == there]


def _inner(table: dict[str, Any], path: Path) -> dict[str, Any]:
    """The table at `path`, created if missing; a value of another type there is reported by validation."""
    for part in path:
        inner = table.setdefault(str(part), {})
        table = inner if isinstance(inner, dict) else {}
    return table
