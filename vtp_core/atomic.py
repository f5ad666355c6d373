"""Files written whole or not at all, even if the process is killed; plain files read. Imports no torch."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_SCRATCH = re.compile(r"\.(.+)\.[a-z0-9_]{8}\.tmp")


def write_text(path: Path, text: str) -> None:
    """Replaces a text file (UTF-8): a reader sees the old text or the new one, never a part.

    Lone surrogates, as in file names that are not UTF-8, are written as escapes.
    """
    with replacing_file(path) as file:
        file.write(text.encode(errors="backslashreplace"))


def write_json(path: Path, data: object) -> None:
    """Replaces a JSON file.

    Raises:
        ValueError: A number is not finite.
    """
    write_text(path, json.dumps(data, indent=2, allow_nan=False) + "\n")


@contextmanager
def replacing_file(path: Path) -> Iterator[BinaryIO]:
    """Yields a new file that replaces `path` at the end of the block; an error leaves the old one.

    Several processes may write at a time. One that is killed leaves a hidden file that ends in ``.tmp``,
    which `sweep` removes. A device, as all in ``/dev`` and ``/dev/fd``, is written to and not replaced.
    """
    if path.is_char_device() or path.parent in (Path("/dev"), Path("/dev/fd")):
        with naming(path), path.open("wb") as file:
            yield file
        return
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with naming(path, temporary), temporary.open("xb") as file:
            _hold(file.fileno())
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


@contextmanager
def naming(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Names a file or folder in errors that name none, as those of a full disk, or its temporary one."""
    try:
        yield
    except OSError as error:
        named, scratch = error.filename, str(temporary)
        if error.errno is not None and named is None:
            error.filename = str(path)
        elif temporary is not None and str(named).startswith(scratch):
            error.filename = str(path) + str(named).removeprefix(scratch)
        raise


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Yields an empty folder that replaces `folder` at the end of the block; an error leaves the old one.

    Parents of `folder` are created. A process that is killed leaves a hidden folder that ends in ``.tmp``,
    which the next one that writes `folder` removes.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    sweep(folder.parent, {folder.name}, seconds=60)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
    descriptor = None if os.name == "nt" else os.open(scratch, os.O_RDONLY)
    try:
        if descriptor is not None:
            _hold(descriptor)
        new = scratch / "new"
        new.mkdir()
        with naming(folder, new):
            yield new
            for path in new.rglob("*"):
                if path.is_file():
                    with path.open("rb") as file:
                        os.fsync(file.fileno())
        rename_folder(new, folder, old=scratch / "old")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        if descriptor is not None:
            os.close(descriptor)


def sweep(folder: Path, names: Collection[str] | None = None, *, seconds: float = 0.0) -> list[Path]:
    """Removes what killed writers left in a folder; a writer that lives holds a lock on its own.

    A writer that was killed after it had moved the old folder away gets that one back in place.

    Args:
        folder: Where it looks, not below it.
        names: Of the files or folders that were written; None: of any.
        seconds: Age from which something counts as left; a writer locks its own a moment after creating it.

    Returns:
        What it removed.
    """
    swept = []
    for path in sorted(folder.glob(".*.tmp")):
        match = _SCRATCH.fullmatch(path.name)
        if match is None or (names is not None and match[1] not in names):
            continue
        if path.is_symlink() or not _is_left(path, seconds):
            continue
        if path.is_dir():
            if (path / "old").is_dir() and not (folder / match[1]).exists():
                (path / "old").rename(folder / match[1])
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        swept.append(path)
    return swept


def _is_left(path: Path, seconds: float) -> bool:
    """Whether no process holds a file or folder; without locks, whether it is a day old."""
    try:
        age = time.time() - path.stat().st_mtime
        if age < seconds or fcntl is None:
            return age > 86400
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # some network file systems have no locks
        return age > 86400
    finally:
        os.close(descriptor)
    return True


def _hold(descriptor: int) -> None:
    """Marks a scratch file or folder as that of a living process, where the file system has locks."""
    if fcntl is not None:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


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
