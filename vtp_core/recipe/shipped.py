"""The recipes that ship with the framework, by name. Imports no torch."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module, resources
from pathlib import Path

from vtp_core.errors import UsageError
from vtp_core.recipe.history import RESOLVED
from vtp_core.recipe.problems import alike, closest

PACKAGE = "vtp_recipes"
"""Package of the shipped recipes: the directory ``recipes/`` of the project."""

PARTS = "parts"
"""Folder name of files that recipes extend and that are not recipes by themselves."""


def shipped_recipes() -> dict[str, Path]:
    """Name -> file of each shipped recipe; one in a folder is called ``folder/name``.

    Raises:
        UsageError: The installation lacks them.
    """
    try:
        root = Path(str(resources.files(PACKAGE)))
    except ModuleNotFoundError:
        raise UsageError(f"package {PACKAGE} is missing; reinstall vtp-core") from None
    files = sorted(file for file in root.rglob("*.toml") if file.parent.name != PARTS)
    return {file.relative_to(root).with_suffix("").as_posix(): file for file in files}


def grouped_recipes() -> dict[str, dict[str, Path]]:
    """`shipped_recipes` by title, what a user starts from first, those in a folder last under its name."""
    shipped = shipped_recipes()
    groups: Mapping[str, Sequence[str]] = import_module(PACKAGE).GROUPS
    titles = {name: title for title, names in groups.items() for name in names}
    found: dict[str, dict[str, Path]] = {
        title: {name: shipped[name] for name in groups[title]} for title in groups
    }
    for name in sorted(shipped.keys() - titles.keys(), key=lambda name: ("/" in name, name)):
        folder = name.rpartition("/")[0]
        found.setdefault(folder or "Ablations and baselines", {})[name] = shipped[name]
    return found


def find_recipe(name: str | Path) -> Path:
    """The file of a recipe, given its path, the folder of a run, or the name of a shipped recipe.

    Raises:
        UsageError: There is no such file, run or recipe.
    """
    path = Path(name)
    folder = os.path.isdir(path)
    if folder and (found := _recipe_of(path)):
        return found
    if os.path.exists(path) and not folder:  # False, not an error, for a name that is too long
        return path
    text, shipped = str(name), shipped_recipes()
    if found := shipped_recipe(text):
        return found
    if folder:
        raise UsageError(
            f"{path}: a folder without {RESOLVED}, so no run; give a recipe's file or the folder of a run"
        )
    if text.endswith(".toml") or "/" in text:
        raise UsageError(f"{name}: no such file; {advice(text.removesuffix('.toml'), shipped)}")
    raise UsageError(f'there is no recipe file and no shipped recipe "{name}"; {advice(text, shipped)}')


def shipped_recipe(name: str) -> Path | None:
    """The shipped recipe of this name, below the working folder if it lies there; ``-`` stands for ``_``."""
    shipped = shipped_recipes()
    if (known := alike(name, shipped)) is None:
        return None
    found = shipped[known]
    return found.relative_to(Path.cwd()) if found.is_relative_to(Path.cwd()) else found


def _recipe_of(folder: Path) -> Path | None:
    """The recipe of a run, given its folder or that of its tokenizer."""
    run = folder.parent if folder.name == "tokenizer" else folder
    return next((place / RESOLVED for place in (folder, run) if (place / RESOLVED).is_file()), None)


def advice(name: str, shipped: Iterable[str]) -> str:
    """Advice for an unknown name: the recipe in its place or likely meant, or where to look."""
    renamed: Mapping[str, str] = import_module(PACKAGE).RENAMED
    folder, slash, last = name.rpartition("/")
    if last in renamed:
        return f'it went, "{folder}{slash}{renamed[last]}" took its place'
    if meant := closest(name, shipped):
        return f'did you mean the shipped recipe "{meant}"?'
    return "see `vtp recipes list`"


def summary(file: Path) -> str:
    """First sentence of the comment at the top of a recipe."""
    words: list[str] = []
    for line in file.read_text("utf-8").splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("#:"):
            words.extend(line.lstrip("#").split())
    return " ".join(words).partition(". ")[0].rstrip(".")


def recipe_files(file: Path) -> dict[Path, Path]:
    """A shipped recipe and all files that it extends: relative path for a copy of them -> file."""
    root = Path(str(resources.files(PACKAGE)))
    found = [file]
    for known in found:
        bases = tomllib.loads(known.read_text("utf-8")).get("extends", [])
        for base in [bases] if isinstance(bases, str) else bases:
            path = Path(os.path.normpath(known.parent / base))
            if path not in found:
                found.append(path)
    top = file.parent if all(path.is_relative_to(file.parent) for path in found) else root
    return {path.relative_to(top): path for path in found}
