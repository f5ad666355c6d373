"""Reads the files of a recipe (TOML, `extends`, `drop`, overrides) as one tree. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

from vtp_core.recipe.problems import COMMAND_LINE, Origin, Problem, RecipeErrors, dotted
from vtp_core.recipe.shipped import advice, shipped_recipe, shipped_recipes
from vtp_core.recipe.toml_lines import Path, scan
from vtp_core.recipe.toml_values import MAX_DEPTH, TomlError, parse_toml, read_plain

MAX_EXTENDS = 3
"""Largest depth of `extends` below the recipe itself."""

MAX_FILES = 32
"""Most files that a recipe may read through `extends`; one that is read twice counts twice."""


if TYPE_CHECKING:
    from vtp_core.plugins.hookspecs import Kind

PARTS: tuple[Kind, ...] = ("encoder", "bottleneck", "decoder")
"""Tables whose keys may come from a trained tokenizer."""

FROM = "from"
"""Key of such a table that names the tokenizer; see `vtp_core.recipe.reading.architecture`."""


@dataclass
class Tree:
    """A recipe before it is checked.

    Attributes:
        file: The recipe's file, as the user named it.
        values: Plain TOML values.
        origins: Where each table, key and element of `values` was set.
        problems: Problems found so far.
    """

    file: str
    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[Path, Origin] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def origin(self, path: Path) -> Origin:
        """Where a key was set, or the innermost table around it that a file has."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.origins:
                return self.origins[path[:length]]
        return Origin(self.file, 1)

    def report(self, path: Path, message: str) -> None:
        """Adds a problem at `path`."""
        self.problems.append(Problem(self.origin(path), dotted(path), message))

    def overlay(self, values: dict[str, Any], origins: dict[Path, Origin]) -> None:
        """Merges other values over these, key by key, but for tables that `_replaces` names."""
        replaced: set[Path] = set()
        self._merge((), self.values, values, replaced)
        self._forget(replaced)
        self.origins.update(origins)

    def _merge(self, path: Path, below: dict[str, Any], above: dict[str, Any], replaced: set[Path]) -> None:
        for key, value in above.items():
            here = (*path, key)
            old = below.get(key)
            if isinstance(old, dict) and isinstance(value, dict) and not _replaces(here, old, value):
                self._merge(here, old, value, replaced)
            else:
                replaced.add(here)
                below[key] = value

    def remove(self, path: Path) -> bool:
        """Removes a table or key; returns whether it existed."""
        table: Any = self.values
        for key in path[:-1]:
            table = table.get(key) if isinstance(table, dict) else None
        if not isinstance(table, dict) or path[-1] not in table:
            return False
        del table[path[-1]]
        self._forget({path})
        return True

    def move(self, old: Path, new: Path) -> None:
        """Moves the origins of a renamed key and of everything below it."""
        moved = {known: origin for known, origin in self.origins.items() if known[: len(old)] == old}
        self._forget({old})
        self.origins.update({(*new, *known[len(old) :]): origin for known, origin in moved.items()})

    def _forget(self, paths: set[Path]) -> None:
        """Removes the origins of these paths and of everything below them, in one pass."""
        inside = [
            known
            for known in self.origins
            if any(known[:length] in paths for length in range(1, len(known) + 1))
        ]
        for known in inside:
            del self.origins[known]


def _replaces(path: Path, below: dict[str, Any], above: dict[str, Any]) -> bool:
    """Whether a table is of another component than the one below it, or copies one of its own."""
    other = "use" in above and "use" in below and above["use"] != below["use"]
    return other or (len(path) == 1 and path[0] in PARTS and FROM in above)


def read_tree(path: FilePath, overrides: Sequence[str]) -> Tree:
    """Reads a recipe with all that it extends and the overrides of the command line.

    Raises:
        RecipeErrors: A file is missing, not TOML, extends itself or goes too deep, or a limit is passed.
    """
    tree = _read(path, Origin(str(path), 1), (), [])
    # `from` replaces a whole table: it goes before the keys that are set in it.
    renewing = [text for text in overrides if text.partition("=")[0].strip().endswith(f".{FROM}")]
    for override in (*renewing, *(text for text in overrides if text not in renewing)):
        _override(tree, override)
    return tree


def _read(path: FilePath, named_at: Origin, below: tuple[FilePath, ...], read: list[FilePath]) -> Tree:
    """Reads one file merged over what it extends; `below` are the files that led here, `read` all so far."""
    name = str(path)
    key = "extends" if below else ""
    if (real := os.path.realpath(path)) in (above := [os.path.realpath(file) for file in below]):
        chain = " -> ".join(str(file) for file in (*below[above.index(real) :], path))
        message = f"{name} extends itself ({chain}); remove one of the links"
        raise RecipeErrors([Problem(named_at, key, message)])
    if len(below) > MAX_EXTENDS:
        raise RecipeErrors([Problem(named_at, key, f"{name} is more than {MAX_EXTENDS} files deep")])
    read.append(path)
    if len(read) > MAX_FILES:
        message = f"the recipe reads more than {MAX_FILES} files through extends"
        raise RecipeErrors([Problem(named_at, key, message)])
    text = _text(path, named_at, key)
    try:
        values = parse_toml(text)
    except TomlError as error:
        raise RecipeErrors([Problem(Origin(name, error.line or 1), "", str(error))]) from None
    origins = {key_path: Origin(name, *position) for key_path, position in scan(text).items()}

    tree = Tree(name)
    bases, dropped = _strings(name, values, origins, "extends"), _strings(name, values, origins, "drop")
    for base, origin in bases:
        other = FilePath(os.path.normpath(path.parent / base))
        if not os.path.lexists(other):
            other = shipped_recipe(base) or other
        base_tree = _read(other, origin, (*below, path), read)
        tree.overlay(base_tree.values, base_tree.origins)
    for text_path, origin in dropped:
        if not tree.remove(tuple(text_path.split("."))):
            raise RecipeErrors([Problem(origin, "drop", f'what this recipe extends has no "{text_path}"')])
    tree.overlay(values, origins)
    return tree


def _text(path: FilePath, named_at: Origin, key: str) -> str:
    try:
        return read_plain(path)
    except FileNotFoundError:
        message = f"there is no file {path}"
        if path.suffix != ".toml":
            message += f" and no shipped recipe {path.name}; {advice(path.name, shipped_recipes())}"
    except UnicodeDecodeError as error:
        message = f"{path} is not UTF-8 text (byte {error.start})"
    except OSError as error:
        message = f"{path} can't be read: {error.strerror}"
    except TomlError as error:
        message = f"{path} can't be read: {error}"
    raise RecipeErrors([Problem(named_at, key, message)])


def _strings(
    name: str, values: dict[str, Any], origins: dict[Path, Origin], key: str
) -> Iterator[tuple[str, Origin]]:
    """Removes a key that holds a string or a list of strings from a file's values and returns the strings."""
    if key not in values:
        return iter(())
    value = values.pop(key)
    found = value if isinstance(value, list) else [value]
    places = {path: origins.pop(path) for path in list(origins) if path[0] == key}
    if not all(isinstance(entry, str) for entry in found):
        raise RecipeErrors([Problem(places[key,], key, "expected a string or a list of strings")])
    return iter([(entry, places.get((key, index), places[key,])) for index, entry in enumerate(found)])


def _override(tree: Tree, override: str) -> None:
    """Applies one ``key.path=value``; the value is parsed as TOML, else taken as a string."""
    place = Origin(COMMAND_LINE, 0)
    key, equals, text = override.partition("=")
    path = tuple(part.strip() for part in key.split("."))
    if len(path) >= MAX_DEPTH:
        tree.problems.append(Problem(place, dotted(path[:3]), f"a key of more than {MAX_DEPTH - 1} parts"))
        return
    if not equals or not all(path):
        message = f'expected KEY.PATH=VALUE, got "{override}"'
        tree.problems.append(Problem(place, key, message))
        return
    try:
        value = _value(text)
    except TomlError as error:
        tree.problems.append(Problem(place, key, str(error)))
        return
    if path[0] in ("extends", "drop"):
        tree.problems.append(Problem(place, key, "belongs in the recipe's file"))
        return
    table: Any = tree.values
    for index, part in enumerate(path[:-1]):
        table = table.get(part, {})
        if not isinstance(table, dict):
            message = f"{dotted(path[: index + 1])} is not a table, so it has no keys"
            tree.problems.append(Problem(place, key, message))
            return
    nested: Any = value
    for part in reversed(path):
        nested = {part: nested}
    tree.overlay(nested, {path: place} | _inside(path, value, place))
    # Tables on the way keep their place in a file: missing keys are reported there.
    for length in range(1, len(path)):
        tree.origins.setdefault(path[:length], place)


def _value(text: str) -> Any:
    """A value of the command line: TOML, else the text itself."""
    try:
        parsed = parse_toml(f"value = {text}")
    except TomlError as error:
        if not error.malformed:
            raise
        return text
    return parsed["value"] if parsed.keys() == {"value"} else text


def _inside(path: Path, value: Any, place: Origin) -> dict[Path, Origin]:
    if isinstance(value, dict):
        children = [((*path, key), child) for key, child in value.items()]
    elif isinstance(value, list):
        children = [((*path, index), child) for index, child in enumerate(value)]
    else:
        return {}
    origins = {child_path: place for child_path, _ in children}
    for child_path, child in children:
        origins |= _inside(child_path, child, place)
    return origins
