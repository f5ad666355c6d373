"""Opens files of folders from elsewhere: plain ones alone, no links, pipes or devices. Imports no torch."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path


def open_plain(path: Path) -> io.BufferedReader:
    """Opens a file for reading; a pipe does not block, and a link is not followed.

    Raises:
        OSError: Missing, or not a plain file; says which.
    """
    refuse_link(path)
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    descriptor = os.open(path, flags | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path.name} is not a plain file")
    return os.fdopen(descriptor, "rb")


def plain_size(path: Path) -> int:
    """Bytes of a plain file.

    Raises:
        OSError: Missing, or not a plain file.
    """
    with open_plain(path) as file:
        return os.fstat(file.fileno()).st_size


def refuse_link(path: Path) -> None:
    """Refuses a symbolic link, whose target may be any file of the user.

    Raises:
        OSError: It is one.
    """
    if path.is_symlink():
        raise OSError(f"{path.name} is a symbolic link")
