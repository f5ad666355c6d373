"""One run a folder: a lock that the operating system drops when its process is gone, however it ended."""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from vtp_core.errors import UsageError

_log = logging.getLogger(__name__)


class RunLock:
    """Holds a run folder for this process; rank 0 takes it. A context manager.

    The file ``.lock`` stays behind; what counts is the lock on it. After ``kill -9`` the folder is free.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Takes the lock; the folder is made if it isn't there.

        Raises:
            UsageError: Another process holds it; names its host, process and time.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(descriptor)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                holder = _holder(self.path)
                os.close(descriptor)
                raise UsageError(
                    f"{self.path.parent}: another run holds this folder ({holder}): wait for it, stop it, "
                    "or choose another run.out"
                ) from None
            # Some network file systems have no locks; a run must be possible there too.
            _log.warning(
                "%s: no lock (%s); a second run on this folder would not be noticed", self.path, error
            )
        owner = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps(owner).encode())
        self._descriptor = descriptor

    @property
    def held(self) -> bool:
        """Whether this process holds the folder."""
        return self._descriptor is not None

    def release(self) -> None:
        """Gives the folder free; nothing happens if it isn't held."""
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> RunLock:
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


def _lock(descriptor: int) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        raise OSError(errno.ENOSYS, "no flock on this system") from None
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _holder(path: Path) -> str:
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
        return f"process {owner['pid']} on {owner['host']} since {owner['time']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "it has not written its name yet"
