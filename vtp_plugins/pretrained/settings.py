"""Settings that other projects published, and the sizes that their tensors' shapes show. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import yaml  # type: ignore[import-untyped]
from pydantic import ValidationError

from vtp_core.artefact.config import CONFIG_BYTES, read_json
from vtp_core.config import Table, first_problem
from vtp_core.errors import CheckpointError

SETTINGS = (".json", ".yaml", ".yml")
"""Endings of files of settings."""
MOST_FILES = 32
"""A folder of more files of a kind is no published model, and they are not opened to find out."""

Shapes = Mapping[str, tuple[int, ...]]
"""Name -> shape of the tensors in a file."""
_Table = TypeVar("_Table", bound=Table)


def files_of(path: Path, suffixes: Sequence[str]) -> list[Path]:
    """The file itself or those of a folder with such endings; none if they are more than `MOST_FILES`."""
    if not path.is_dir():
        return [path] if path.suffix in suffixes and path.is_file() else []
    found = sorted(file for file in path.iterdir() if file.suffix in suffixes and file.is_file())
    return found if len(found) <= MOST_FILES else []


def find_settings(path: Path, known: Callable[[Mapping[str, Any]], bool]) -> list[Path]:
    """The file of settings itself, or those of a folder, whose content `known` knows."""
    found = []
    for file in files_of(path, SETTINGS):
        try:
            if known(read_settings(file)):
                found.append(file)
        except CheckpointError:
            continue
    return found


def read_settings(path: Path) -> dict[str, Any]:
    """The table in a JSON or YAML file.

    Raises:
        CheckpointError: Missing, too large, or no table.
    """
    if path.suffix == ".json":
        return read_json(path)
    if not path.is_file() or path.stat().st_size > CONFIG_BYTES:
        raise CheckpointError(f"{path}: missing, or larger than {CONFIG_BYTES} bytes; not a configuration")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not YAML ({str(error).splitlines()[0]})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: no table of settings")
    return content


def checked_table(kind: type[_Table], path: Path, raw: Mapping[str, Any]) -> _Table:
    """The checked table of settings.

    Raises:
        CheckpointError: A key is missing, or has a value that this version doesn't know.
    """
    try:
        return kind.model_validate(dict(raw))
    except ValidationError as error:
        raise CheckpointError(f"{path}: {first_problem(error)}; this version reads no such model") from error


@contextmanager
def fitting(path: Path, model: str) -> Iterator[None]:
    """Says of what fails in the block that settings and tensors are of different models.

    Args:
        path: The file of tensors.
        model: The kind of model, for a name that is missing.

    Raises:
        CheckpointError: A tensor is missing, or a size is not allowed.
    """
    try:
        yield
    except KeyError as error:
        raise CheckpointError(f"{path}: missing {error.args[0]}; not the tensors of a {model}") from None
    except (ValueError, IndexError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"{path}: {first_problem(error)}; settings and weights are of different models"
        ) from None


def inner(raw: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    """The table at a path of keys; empty if there is none."""
    found: Any = raw
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def count(shapes: Shapes, pattern: str) -> int:
    """How many numbers the group of a pattern takes in the names of tensors, such as those of blocks."""
    return len({match[1] for name in shapes if (match := re.match(pattern, name))})
