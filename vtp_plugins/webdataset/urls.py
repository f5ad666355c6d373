"""Expands paths with braces and wildcards to the list of shards."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from os.path import expanduser
from pathlib import Path

from vtp_core.errors import DataError

_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MOST = 10_000_000


def expand(pattern: str) -> list[str]:
    """Expands ``{00..12}`` and ``{a,b}``; the leftmost braces vary slowest, numbers keep their width.

    Braces around anything else stay, as in a shell.

    Raises:
        DataError: More than ten million paths.
    """
    start = pattern.find("{")
    end = pattern.find("}", start)
    if start < 0 or end < 0:
        return [pattern]
    head, body, tails = pattern[:start], pattern[start + 1 : end], expand(pattern[end + 1 :])
    if match := _RANGE.fullmatch(body):
        first, last = int(match[1]), int(match[2])
        count = abs(last - first) + 1
        if count * len(tails) > _MOST:
            raise DataError(f"{pattern}: {count * len(tails)} paths are more than {_MOST}")
        numbers = range(first, last + 1) if last >= first else range(first, last - 1, -1)
        options = [str(number).zfill(len(match[1])) for number in numbers]
    elif "," in body:
        options = body.split(",")
    else:
        options = ["{" + body + "}"]
    return [head + option + tail for option in options for tail in tails]


def find_shards(
    urls: str | Sequence[str], *, allow_missing: bool = False
) -> tuple[list[Path], Sequence[str]]:
    """The shards that `urls` name, in order, wildcards sorted by name, each once; and the missing ones.

    Args:
        urls: Paths with braces or wildcards; ``~`` is the home folder. A file or folder that exists is taken
            as it is written, whatever its name.
        allow_missing: Whether missing ones are skipped.

    Raises:
        DataError: One is missing, a wildcard matches none, or none is left.
    """
    paths: dict[Path, None] = {}
    missing: list[str] = []
    for pattern in (urls,) if isinstance(urls, str) else urls:
        folder, rest = _existing(Path(expanduser(pattern)))
        for text in expand(rest):
            found = (
                sorted(glob.glob(text, root_dir=folder, recursive=True)) if glob.has_magic(text) else [text]
            )
            present = [folder / path for path in found if os.path.isfile(folder / path)]
            paths.update(dict.fromkeys(present))
            # A wildcard also matches links that lead nowhere, as to a disk that is not mounted.
            broken = [str(folder / path) for path in found if not os.path.exists(folder / path)]
            missing += broken if broken or present else [str(folder / text)]
    if missing and not (allow_missing and paths):
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        advice = "correct the urls of the source" + (", or set allow_missing = true" if paths else "")
        raise DataError(f"{len(missing)} shards are missing: {shown}; {advice}")
    return list(paths), missing


def _existing(path: Path) -> tuple[Path, str]:
    """The longest part of a path that exists, and the rest, in which braces and wildcards count."""
    for folder in (path, *path.parents):
        if os.path.exists(folder):
            return folder, "" if folder == path else str(path.relative_to(folder))
    return Path(), str(path)
