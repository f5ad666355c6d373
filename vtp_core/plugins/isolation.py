"""Runs a plugin's code and restores global state afterwards. Imports no torch.

Importing a third-party module may print, seed generators or set torch's default dtype. None of that may
reach a run's numbers or a command's output, so plugins are imported and their hooks called in `isolated`.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from vtp_core.plugins.watch import watched


class _ToStandardError(io.TextIOBase):
    """A text stream that writes to standard error and records whether it was used."""

    used = False

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.used = True
        return sys.stderr.write(text)


@dataclass(frozen=True)
class _State:
    """Process-wide state: its earlier and present value in comparable form, and a function to restore it."""

    what: str
    before: object
    now: Callable[[], object]
    restore: Callable[[], object]


def _states() -> list[_State]:
    """The state of the libraries that are loaded now."""
    states = []

    def watch(
        what: str, read: Callable[[], Any], write: Callable[[Any], Any], mark: Callable[[Any], object]
    ) -> None:
        before = read()
        states.append(_State(what, mark(before), lambda: mark(read()), lambda: write(before)))

    watch("Python's random state", random.getstate, random.setstate, lambda state: state)
    if numpy := sys.modules.get("numpy.random"):
        watch(
            "numpy's random state",
            numpy.get_state,
            numpy.set_state,
            lambda state: (state[1].tobytes(), *state[2:]),
        )
    if (torch := sys.modules.get("torch")) and hasattr(torch, "get_rng_state"):
        watch("torch's random state", torch.get_rng_state, torch.set_rng_state, lambda state: state.tolist())
        watch("torch's default dtype", torch.get_default_dtype, torch.set_default_dtype, lambda dtype: dtype)
        if torch.cuda.is_initialized():
            watch(
                "CUDA's random state",
                torch.cuda.get_rng_state_all,
                torch.cuda.set_rng_state_all,
                lambda devices: [state.tolist() for state in devices],
            )
    return states


@contextlib.contextmanager
def _descriptor_to_standard_error() -> Iterator[None]:
    """Sends what is written to file descriptor 1, by C code or a child process, to standard error."""
    _flush()
    try:
        saved = os.dup(1)
    except OSError:  # closed
        yield
        return
    try:
        try:
            os.dup2(2, 1)
        except OSError:
            with open(os.devnull, "wb") as sink:
                os.dup2(sink.fileno(), 1)
        yield
    finally:
        _flush()
        os.dup2(saved, 1)
        os.close(saved)


def _flush() -> None:
    """Writes out what Python and the C library hold back for standard output."""
    for stream in (sys.stdout, sys.__stdout__):
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
    if os.name == "posix":
        library = ctypes.CDLL(None)
        with contextlib.suppress(ValueError):  # the symbol has another name
            library.fflush(ctypes.c_void_p.in_dll(library, "stdout"))


@contextlib.contextmanager
def isolated(who: str = "") -> Iterator[list[str]]:
    """Restores random states and torch's default dtype afterwards; standard output goes to standard error.

    The state of a library that is first imported inside the block is not restored: it has no earlier value.

    Args:
        who: The plugin, for `watched`; empty: one of the core's, which is not watched.

    Yields:
        A list that has, after the block, a phrase for each change that was undone.
    """
    notices: list[str] = []
    states = _states()
    stream = _ToStandardError()
    try:
        watch = watched(who) if who else contextlib.nullcontext()
        with watch, _descriptor_to_standard_error(), contextlib.redirect_stdout(stream):
            yield notices
    finally:
        if stream.used:
            notices.append("printed to standard output (sent to standard error)")
        for state in states:
            if state.now() != state.before:
                state.restore()
                notices.append(f"changed {state.what} (restored)")
