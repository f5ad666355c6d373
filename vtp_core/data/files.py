"""Finds the files below a folder, and their sizes. Imports no torch."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from vtp_core.recipe.history import RESOLVED

LINKED = "linked folder that was read already (skipped)"
UNREADABLE = "unreadable folder (skipped)"
HIDDEN = "hidden file (skipped)"
RUN = "folder of a run (skipped)"


def files_below(root: Path, endings: tuple[str, ...], problems: dict[str, list[str]]) -> Iterator[str]:
    """Files below a folder but hidden ones, by their path from there, with ``/`` between its parts.

    Links to folders are followed after all real folders, and each folder is read once, so links can't loop.
    Hidden folders are passed over. So are run folders below `root`, and the folders of a run that `root` is:
    the pictures that a run writes are no data of the next one.

    Args:
        root: The folder.
        endings: Of the files' names, in lower case; others are passed over.
        problems: Gets what was skipped, by reason.
    """
    seen: set[tuple[int, int]] = set()
    real, links = deque([""]), deque[str]()
    while real or links:
        inside = real.popleft() if real else links.popleft()
        try:
            status = os.stat(root / inside)
            if (status.st_dev, status.st_ino) in seen:
                problems.setdefault(LINKED, []).append(inside)
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(root / inside) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError as error:
            problems.setdefault(UNREADABLE, []).append(f"{inside}: {error.strerror}")
            continue
        run = any(entry.name == RESOLVED for entry in entries)
        if run and inside:
            problems.setdefault(RUN, []).append(inside)
            continue
        for entry in entries:
            path = f"{inside}/{entry.name}" if inside else entry.name
            wanted = entry.name.lower().endswith(endings)
            if entry.name.startswith("."):
                if wanted and entry.is_file():
                    problems.setdefault(HIDDEN, []).append(path)
            elif os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir():
                if run and entry.name in ("checkpoints", "samples", "tokenizer"):
                    problems.setdefault(RUN, []).append(path)
                else:
                    (links if entry.is_symlink() else real).append(path)
            elif wanted:
                yield path


def file_bytes(path: Path) -> int | None:
    """Size of a file; None if it can't be looked at."""
    try:
        return path.stat().st_size
    except (OSError, ValueError):  # also of a name that no file can have
        return None
