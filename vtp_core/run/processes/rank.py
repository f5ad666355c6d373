"""This process as a rank that a launcher started. Imports no torch."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

LAUNCHER = "VTP_LAUNCHER"
"""Variable with the process id of ``vtp run --nproc``."""
EXIT_CODES = "VTP_EXIT_CODES"
"""Variable with the folder in which ranks note their exit codes: torch's launcher loses them on a signal."""


def launched_ranks() -> int | None:
    """Number of ranks that torchrun started, or None if it did not start this process."""
    return int(os.environ["WORLD_SIZE"]) if "RANK" in os.environ and "WORLD_SIZE" in os.environ else None


def launcher() -> int | None:
    """Process id of the launcher that this rank must not outlive, or None if no launcher started it."""
    if launched_ranks() is None:
        return None
    return int(os.environ.get(LAUNCHER) or os.getppid())


def leave(code: int) -> NoReturn:
    """Ends this process at once; a rank tells its launcher the exit code.

    Threads of a process group may abort an ordinary exit, and the exit code with it.
    """
    if (folder := os.environ.get(EXIT_CODES)) and launched_ranks() is not None:
        with suppress(OSError):  # the launcher has ended and its folder is gone
            Path(folder, os.environ["RANK"]).write_text(str(code), encoding="utf-8")
    os._exit(code)


def flush() -> None:
    """Writes what standard output and error hold back; `leave` would lose it."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
