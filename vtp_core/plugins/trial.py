"""Tries plugins in processes of their own, to find those that end or hang one. Imports no torch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

LOADING, DIAGNOSTICS = 20.0, 60.0
"""Seconds after which a plugin must be loaded, and its diagnostics be done (they may import torch)."""

LOADED, DIAGNOSED = "loaded", "diagnosed"
"""What the process of a plugin prints when it is so far."""


@dataclass(frozen=True)
class Candidate:
    """A plugin to try.

    Attributes:
        name: Its name.
        file: Path of a loose file; None: an installed plugin.
    """

    name: str
    file: str | None = None


def try_plugins(candidates: Sequence[Candidate], *, diagnose: bool) -> list[str | None]:
    """Loads each plugin in a process of its own, all at a time.

    Args:
        candidates: What to try.
        diagnose: Whether their diagnostics are called too.

    Returns:
        For each one, None if its process came through, also if the plugin raised an error; else one line.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    running: list[tuple[subprocess.Popen[bytes], IO[bytes]]] = []
    start = time.monotonic()
    try:
        for item in candidates:
            output = tempfile.TemporaryFile()
            arguments = [item.name, item.file or "", DIAGNOSED if diagnose else LOADED]
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "vtp_core.plugins.trial_process", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
            )
            running.append((process, output))
        return [_outcome(process, output, start, diagnose) for process, output in running]
    finally:
        for process, written in running:
            _end(process)
            written.close()


def _outcome(process: subprocess.Popen[bytes], output: IO[bytes], start: float, diagnose: bool) -> str | None:
    while process.poll() is None:
        loaded = os.fstat(output.fileno()).st_size > 0
        if time.monotonic() - start > (DIAGNOSTICS if diagnose and loaded else LOADING):
            break
        time.sleep(0.02)
    output.seek(0)
    return _reason(process.returncode, output.read().decode(errors="replace").split(), diagnose)


def _reason(code: int | None, reached: Sequence[str], diagnose: bool) -> str | None:
    if (DIAGNOSED if diagnose else LOADED) in reached:
        return None
    doing, seconds = ("running its diagnostics", DIAGNOSTICS) if LOADED in reached else ("loading", LOADING)
    if code is None:
        return f"it was still {doing} after {seconds:g} s"
    how = f"exit code {code}" if code >= 0 else f"signal {-code}, {signal.strsignal(-code)}"
    return f"it ended its process while {doing} ({how})"


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a process and those that it started."""
    if os.name == "nt":
        process.kill()
    else:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    process.wait()
