"""One process a run folder: a lock that the system releases when its process ends, however it ends."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from filelock import FileLock, Timeout

from vtp_core.atomic import sweep, write_text
from vtp_core.errors import UsageError
from vtp_core.run.records import RunFolder

_log = logging.getLogger(__name__)


@contextmanager
def locked(folder: RunFolder) -> Iterator[None]:
    """Holds a run folder for this process; rank 0 enters it.

    The folder is created, and removed at the end if nothing was written to it.

    Raises:
        UsageError: Another process holds it; names its host, process and time. Or a file that a run writes
            in place is a link.
    """
    lock = _acquire(folder)
    time = datetime.now(UTC).isoformat(timespec="seconds")
    owner = {"host": socket.gethostname(), "pid": os.getpid(), "time": time}
    # Not in the lock's own file: versions of filelock truncate it when a second process tries the lock.
    write_text(folder.lock_holder, json.dumps(owner))
    for place in (folder.path, folder.samples, folder.checkpoints):
        for left in sweep(place):
            _log.info("removed %s, which a killed process left", left)
    try:
        yield
    finally:
        _release(folder, lock)


def _acquire(folder: RunFolder) -> FileLock:
    # A soft lock would outlive a process that is killed.
    lock = FileLock(folder.lock, timeout=0, fallback_to_soft=False)
    for attempt in range(10):
        folder.path.mkdir(parents=True, exist_ok=True)
        folder.require_plain()
        try:
            lock.acquire()
        except Timeout:
            raise UsageError(
                f"{folder}: another run holds this folder ({_holder(folder)}): wait for it, stop it, "
                "or choose another run.out"
            ) from None
        except FileNotFoundError:
            if attempt < 9:  # a run that was refused has just removed its empty folder
                continue
            raise
        except (OSError, NotImplementedError) as error:
            # Some network file systems have no locks; a run must be possible there too.
            _log.warning(
                "%s: no lock (%s); a second run on this folder would not be noticed", folder.lock, error
            )
        break
    return lock


def _release(folder: RunFolder, lock: FileLock) -> None:
    """Frees the folder. What is removed is removed under the lock: later it may be another run's."""
    try:
        folder.lock_holder.unlink(missing_ok=True)
        if set(folder.path.iterdir()) <= {folder.lock}:
            folder.lock.unlink(missing_ok=True)
            folder.path.rmdir()
    except OSError as error:
        if folder.path.exists():  # else a user removed it
            _log.warning("%s: could not be cleaned up (%s)", folder, error)
    finally:
        lock.release()


def _holder(folder: RunFolder) -> str:
    try:
        owner = json.loads(folder.lock_holder.read_text(encoding="utf-8"))
        return f"process {owner['pid']} on {owner['host']} since {owner['time']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "its process is not known yet"
