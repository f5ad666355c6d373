"""Files written whole or not at all, even if the process is killed; plain files read. Imports no torch."""

from __future__ import annotations

import errno
import io
import json
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def write_text(path: Path, text: str) -> None:
    """Replaces a text file (UTF-8): a reader sees the old text or the new one, never a part."""
    with replacing_file(path) as file:
        file.write(text.encode())


def write_json(path: Path, data: object) -> None:
    """Replaces a JSON file.

    Raises:
        ValueError: A number is not finite.
    """
    write_text(path, json.dumps(data, indent=2, allow_nan=False) + "\n")


@contextmanager
def replacing_file(path: Path) -> Iterator[BinaryIO]:
    """Yields a new file that replaces `path` at the end of the block; an error leaves the old one.

    Several processes may write at a time. One that is killed leaves a hidden file that ends in ``.tmp``.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Yields an empty folder that replaces `folder` at the end of the block; an error leaves the old one.

    Parents of `folder` are created. A process that is killed leaves a hidden folder that ends in ``.tmp``.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
    try:
        new = scratch / "new"
        new.mkdir()
        yield new
        for path in new.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        rename_folder(new, folder, old=scratch / "old")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def rename_folder(new: Path, folder: Path, *, old: Path) -> None:
    """Renames `new` to `folder`; a `folder` that is there is renamed to `old` first and deleted last.

    A process that is killed in between leaves its files under `old` and `new`.

    Raises:
        OSError: `new` could not be renamed; `folder` is as it was.
    """
    if replaced := folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    try:
        new.rename(folder)
    except OSError:
        if replaced:
            old.rename(folder)
        raise
    sync_folder(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Flushes the entries of a folder (new names, renames) to the disk."""
    if os.name == "nt":  # Windows can't open folders, and orders renames itself.
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # some network file systems can't flush a folder
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


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
