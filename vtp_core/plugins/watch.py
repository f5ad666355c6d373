"""Names the plugin that runs when a process hangs or ends without a message. Imports no torch."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

SECONDS = 10.0
"""Time after which a plugin that still runs is named."""

# Standard input ends without a line if this process does, in whatever way.
_SHELL = 'read -r line || printf "%s\\n" "vtp ended while this was loading: $0" >&2'


class ProcessEnd(BaseException):
    """Raised where a plugin called `os._exit`."""


@contextmanager
def watched(who: str) -> Iterator[None]:
    """Names a plugin on standard error if the block takes long or the process ends in it.

    `os._exit` becomes `ProcessEnd` in the block; processes that the plugin forks, and other threads, end as
    they ask.

    Args:
        who: The plugin, as in "plugin foo (vtp-plugin-foo 0.2)".
    """
    leave, process, thread = os._exit, os.getpid(), threading.get_ident()
    done = threading.Event()

    def refuse(status: int) -> NoReturn:
        if done.is_set() or (os.getpid(), threading.get_ident()) != (process, thread):
            leave(status)
        raise ProcessEnd(f"it called os._exit({status})")

    def remind() -> None:
        if not done.wait(SECONDS):
            advice = "Ctrl-C ends this command; uninstall it, or name the others in VTP_PLUGINS"
            print(f"{who} has been loading for {SECONDS:g} s: {advice}", file=sys.stderr, flush=True)

    reminder = threading.Thread(target=remind, daemon=True)
    with _survived(who):
        reminder.start()
        os._exit = refuse
        try:
            yield
        finally:
            os._exit = leave
            done.set()
            reminder.join()


@contextmanager
def _survived(who: str) -> Iterator[None]:
    """Leaves the word to a shell if native code ends this process; does nothing where there is no shell."""
    try:
        shell = subprocess.Popen(
            ["/bin/sh", "-c", _SHELL, who], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, bufsize=0
        )
    except OSError:
        yield
        return
    try:
        yield
    finally:
        with suppress(OSError):
            shell.communicate(b"\n")
