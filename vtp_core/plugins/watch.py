"""Says which plugin runs when a process hangs or would end without a word. Imports no torch."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

SECONDS = 10.0
"""Time after which a plugin that still runs is named."""


class ProcessEnd(BaseException):
    """Raised where a plugin called `os._exit`."""


@contextmanager
def watched(who: str) -> Iterator[None]:
    """Names a plugin on standard error if the block takes long, and turns its `os._exit` into `ProcessEnd`.

    A crash in native code prints the Python lines that led to it. Processes that the plugin forks, and other
    threads, end as they ask.

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

    trace = not faulthandler.is_enabled()
    if trace:
        faulthandler.enable(file=2)
    reminder = threading.Thread(target=remind, daemon=True)
    reminder.start()
    os._exit = refuse
    try:
        yield
    finally:
        os._exit = leave
        done.set()
        reminder.join()
        if trace:
            faulthandler.disable()
