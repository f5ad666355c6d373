"""Validates a recipe table by table, so that errors in one table hide none in others. Imports no torch."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin

from pydantic import TypeAdapter, ValidationError

from vtp_core.recipe.problems import closest
from vtp_core.recipe.reading.familiar import NO_SWITCH, advice
from vtp_core.recipe.reading.files import Tree
from vtp_core.recipe.reading.keys import field_type, key_of
from vtp_core.recipe.reading.messages import Finding, findings
from vtp_core.recipe.tables.recipe import Recipe
from vtp_core.recipe.toml_lines import Path

if TYPE_CHECKING:
    from vtp_core.plugins import Plugins

T = TypeVar("T")


@dataclass
class Parts:
    """The tables of a recipe that could be read, without their wrong keys.

    Attributes:
        values: ``("run",)`` or ``("views", "image")`` -> validated object.
        names: Table of tables, such as ``"views"`` -> the names in it, readable or not.
        doubtful: Paths whose value was wrong or missing; checks that depend on them are skipped.
    """

    values: dict[Path, Any] = field(default_factory=dict)
    names: dict[str, list[str]] = field(default_factory=dict)
    doubtful: set[Path] = field(default_factory=set)

    def get(self, kind: type[T], *path: str) -> T | None:
        """The object at `path`, or None if it could not be read."""
        value = self.values.get(path)
        return value if isinstance(value, kind) else None

    def all(self, kind: type[T], table: str) -> dict[str, T]:
        """The readable entries of a table of tables."""
        found = {name: self.get(kind, table, name) for name in self.names.get(table, [])}
        return {name: value for name, value in found.items() if value is not None}

    def sure(self, *path: str) -> bool:
        """Whether nothing at, above or below `path` was wrong."""
        return not any(path[: len(wrong)] == wrong or wrong[: len(path)] == path for wrong in self.doubtful)

    def complete(self, table: str) -> bool:
        """Whether all names of a table of tables are known."""
        names = self.names.get(table, [])
        return not any(
            path == (table,) or (len(path) == 2 and path[0] == table and path[1] not in names)
            for path in self.doubtful
        )


def read_parts(tree: Tree, plugins: Plugins) -> Parts:
    """Validates every table of a recipe; problems go to ``tree.problems``."""
    parts = Parts()
    fields = {key_of(name, found): found for name, found in Recipe.model_fields.items() if not found.exclude}
    for key in tree.values.keys() - fields.keys():
        tree.report((key,), f"unknown key; {advice(key, fields)}")
        if meant := closest(key, fields):
            value = tree.values[key]
            names = value if _is_mapping(field_type(fields[meant])) and isinstance(value, dict) else {}
            parts.doubtful.update({(meant, name) for name in names} or {(meant,)})
    for key, found in fields.items():
        annotation = field_type(found)
        if key not in tree.values:
            if found.is_required():
                tree.report((key,), "missing; this key is required")
                parts.doubtful.add((key,))
            else:
                parts.values[key,] = found.get_default()
            continue
        value = tree.values[key]
        if not _is_mapping(annotation):
            _read(tree, parts, (key,), annotation, plugins)
        elif isinstance(value, dict):
            parts.names[key] = list(value)
            for name in value:
                _read(tree, parts, (key, name), get_args(annotation)[1], plugins)
        else:
            tree.report((key,), f"expected tables [{key}.NAME]")
            parts.doubtful.add((key,))
    return parts


def _is_mapping(annotation: Any) -> bool:
    return get_origin(annotation) is Mapping


def _read(tree: Tree, parts: Parts, base: Path, annotation: Any, plugins: Plugins) -> None:
    """Validates the value at `base`; with errors, its other keys are kept for the checks across tables."""
    value: Any = tree.values
    for key in base:
        value = value[key]
    adapter: TypeAdapter[Any] = TypeAdapter(annotation)
    try:
        parts.values[base] = _validated(adapter, value, plugins)
        return
    except ValidationError as error:
        found = findings(error, annotation, value, plugins)
    for finding in found:
        note = f" ({NO_SWITCH[str(base[0])]})" if value is False and str(base[0]) in NO_SWITCH else ""
        tree.report((*base, *finding.path), finding.message + note)
        parts.doubtful.update((*base, *path) for path in finding.affects)
    # First without the wrong keys; if that is not valid either, without the top-level keys that hold them.
    for depth in (None, 1):
        rest = _without(value, [finding for finding in found if finding.present], depth)
        try:
            parts.values[base] = _validated(adapter, rest, plugins)
            return
        except ValidationError:
            continue
    parts.doubtful.add(base)


def _validated(adapter: TypeAdapter[Any], value: Any, plugins: Plugins) -> Any:
    # From JSON, strict mode still turns arrays into tuples.
    return adapter.validate_json(json.dumps(value, default=str), strict=True, context={"plugins": plugins})


def _without(value: Any, wrong: list[Finding], depth: int | None) -> Any:
    """A copy of a value without its wrong keys, cut at `depth`."""
    rest = copy.deepcopy(value)
    for path in {finding.path[:depth] for finding in wrong if finding.path}:
        table = rest
        for key in path[:-1]:
            table = table.get(key, {}) if isinstance(table, dict) else {}
        if isinstance(table, dict):
            table.pop(path[-1], None)
    return rest
