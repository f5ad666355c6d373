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

SECONDS = 20.0
"""Time in which all tried plugins must be through."""

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
    running = []
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
    end = time.monotonic() + SECONDS
    reasons: list[str | None] = []
    for process, output in running:
        try:
            process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            pass
        with output:
            output.seek(0)
            reached = output.read().decode(errors="replace").split()
        reasons.append(_reason(process.returncode, reached, diagnose))
        _end(process)
    return reasons


def _reason(code: int | None, reached: Sequence[str], diagnose: bool) -> str | None:
    if (DIAGNOSED if diagnose else LOADED) in reached:
        return None
    doing = "running its diagnostics" if LOADED in reached else "loading"
    if code is None:
        return f"it was still {doing} after {SECONDS:g} s"
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
