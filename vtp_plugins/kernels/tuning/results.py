"""The file of a device's measured results, in the user's cache folder."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vtp_core.atomic import write_json
from vtp_core.errors import UsageError

FORMAT = 1
LARGEST = 2**20
"""Largest size in bytes of a file that is read."""


def cache_folder() -> Path:
    """Folder of this package below the user's cache: ``$XDG_CACHE_HOME/vtp``, else ``~/.cache/vtp``.

    Raises:
        UsageError: The user has neither, as in some containers.
    """
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        return (named if named.is_absolute() else Path.home() / ".cache") / "vtp"
    except RuntimeError:
        raise UsageError("this user has no home folder: set XDG_CACHE_HOME to a folder for caches") from None


def results_file(key: Mapping[str, str]) -> Path:
    """Path of the results for a key."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    name = re.sub(r"[^a-z0-9]+", "-", key["device"].lower()).strip("-")[:40]
    return cache_folder() / "tuned" / f"{name}-{digest[:16]}.json"


def write_results(key: Mapping[str, str], results: Mapping[str, Any]) -> Path:
    """Replaces the results for a key at once; returns their file."""
    path = results_file(key)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"format": FORMAT, "key": dict(key), **results})
    return path


def read_results(key: Mapping[str, str]) -> dict[str, Any] | None:
    """The results for a key, not checked beyond being its own; None if there are none.

    Raises:
        ValueError: There is a file that can't be used; the message is one line that names it.
    """
    try:
        path = results_file(key)
    except UsageError:
        return None
    try:
        data = json.loads(_read_regular(path))
        if not isinstance(data, dict) or data.get("format") != FORMAT or data.get("key") != dict(key):
            raise ValueError("of another format or key")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} can't be used ({' '.join(str(error).split())[:200]})") from None
    return data


def _read_regular(path: Path) -> bytes:
    """The bytes of a regular file; does not wait for the other end of a pipe."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > LARGEST:
            raise ValueError("no regular file of at most 1 MiB")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(LARGEST)
    finally:
        os.close(descriptor)
