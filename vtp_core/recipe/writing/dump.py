"""Writes a recipe as TOML that loads to the same recipe. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from datetime import date, time
from enum import Enum
from pathlib import PurePath
from typing import Any

from vtp_core.recipe.problems import dotted, quoted, quoted_key
from vtp_core.recipe.tables.recipe import Recipe
from vtp_core.recipe.toml_lines import Path

_INLINE_WIDTH = 100


def dump_toml(recipe: Recipe, sources: bool = False) -> str:
    """The recipe with all defaults and everything that it extends, as one file.

    Args:
        recipe: A checked recipe.
        sources: Whether a comment after each value says where it was set, with its origin tag.
    """
    values = recipe.model_dump(by_alias=True, serialize_as_any=True)
    return "\n".join(_Writer(recipe if sources else None).table((), values)).lstrip("\n") + "\n"


class _Writer:
    def __init__(self, sources: Recipe | None) -> None:
        self.sources = sources

    def table(self, path: Path, values: Mapping[str, Any]) -> Iterator[str]:
        """Lines of a table: values first, then nested tables."""
        plain: list[str] = []
        tables: list[tuple[Path, Mapping[str, Any]]] = []
        for key, value in values.items():
            if value is None:
                continue
            here = (*path, key)
            if isinstance(value, Mapping) and not self.fits_inline(here, value):
                tables.append((here, value))
            else:
                plain.append(f"{quoted_key(key)} = {literal(value)}{self.comment(here)}")
        if plain and path:
            yield f"\n[{dotted(path)}]"
        yield from plain
        for here, value in tables:
            yield from self.table(here, value)

    def fits_inline(self, path: Path, value: Mapping[str, Any]) -> bool:
        """Whether a table is written inline, ``key = { ... }``."""
        if not value:
            return True
        if len(path) < 2 or self.sources is not None:
            return False
        nested = any(isinstance(entry, Mapping) for entry in value.values())
        return not nested and "use" not in value and len(literal(value)) <= _INLINE_WIDTH

    def comment(self, path: Path) -> str:
        if self.sources is None:
            return ""
        origin = self.sources.provenance.get(dotted(path))
        if origin is None:
            return "  # default"
        tag = f"[{origin.tag}] " if origin.tag else ""
        return f"  # {tag}{origin._replace(tag=None)}"


def literal(value: Any) -> str:
    """A value as TOML on one line; keys without a value are left out of tables.

    Raises:
        TypeError: TOML has no such value.
    """
    if isinstance(value, Enum):
        return literal(value.value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else str(value)
    if isinstance(value, str | PurePath):
        return quoted(str(value))
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Mapping):
        entries = [
            f"{quoted_key(key)} = {literal(entry)}" for key, entry in value.items() if entry is not None
        ]
        return "{ " + ", ".join(entries) + " }" if entries else "{}"
    if isinstance(value, set | frozenset):
        return literal(sorted(value))
    if isinstance(value, list | tuple):
        return "[" + ", ".join(literal(entry) for entry in value) + "]"
    raise TypeError(f"TOML has no {type(value).__name__}")
