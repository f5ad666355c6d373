"""Text of commands: errors on one line, tables. Imports no torch."""

from __future__ import annotations

import os
import traceback
from pathlib import Path

from vtp_core.errors import UsageError, VtpError
from vtp_core.recipe.problems import RecipeErrors

STDOUT = Path("-")
"""File of an option that stands for standard output."""


def describe(error: VtpError) -> str:
    """An error as the command line prints it: one line, or one line for each problem of a recipe."""
    if isinstance(error, RecipeErrors):
        return "\n".join(printable(line) for line in str(error).splitlines())
    return f"error: {printable(' '.join(str(error).split())) or type(error).__name__}"


def internal_error(error: BaseException) -> str:
    """One line for an unexpected error: what, where, and how to see more."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    message = printable(" ".join(str(error).split()))
    return f"internal error: {type(error).__name__}: {message}{where}; vtp --debug shows the traceback"


def check_file(option: str, path: Path | None) -> None:
    """Checks that a file can be written, before work is done for it.

    Raises:
        UsageError: `path` is a folder, lies below a file, or may not be written.
    """
    if path is None or path == STDOUT:
        return
    if path.is_dir():
        raise UsageError(f"{option} {path}: is a folder; name a file")
    check_folder(option, path.absolute().parent)
    if path.exists() and not os.access(path, os.W_OK):
        raise UsageError(f"{option} {path}: can't be written; name another file")


def check_folder(option: str, folder: Path) -> None:
    """Checks that a folder is there or can be made.

    Raises:
        UsageError: A file is in its place, or it may not be written.
    """
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    if not there.is_dir():
        raise UsageError(f"{option} {folder}: {there} is a file; name another folder")
    if not os.access(there, os.W_OK):
        raise UsageError(f"{option} {folder}: {there} can't be written; name another folder")


def check_empty_folder(option: str, folder: Path) -> None:
    """The same of a folder that must not hold anything yet.

    Raises:
        UsageError: As `check_folder`, or something is in it.
    """
    check_folder(option, folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise UsageError(f"{option} {folder}: is not empty; name a new folder")


def printable(text: str) -> str:
    """Text of one line whose control characters are escapes: names from data must not steer a terminal."""
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def table(rows: list[tuple[str, ...]], gap: str = "  ") -> str:
    """Rows as aligned columns; the last column is not padded.

    Args:
        rows: All of the same length.
        gap: Between columns.
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)] if rows else []
    lines = []
    for row in rows:
        padded = [f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)]
        lines.append(gap.join([*padded, row[-1]]).rstrip())
    return "\n".join(lines)
