"""Stop signals: SIGTERM, SIGINT and SIGUSR1 end a run cleanly. Imports no torch."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import NoReturn

from vtp_core.errors import Preempted, Stopped, VtpError
from vtp_core.run.processes.rank import launched_ranks, leave

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
SAME_SECONDS = 5.0
"""Equal signals within this time are one: launchers and service managers both send it to every process."""


class Interrupted(KeyboardInterrupt):
    """Raised in the main thread by a stop signal, where the run can end at once.

    Code that handles errors lets it pass.
    """


class StopSignals:
    """What a run does on a stop signal. A context manager, used in the main thread.

    The first signal raises `Interrupted`; while `waits` is true it is only noted, and the loop ends the run
    after the step. An equal signal within `SAME_SECONDS` is ignored, a later or another one ends the process.

    Attributes:
        number: The first signal, or None.
        since: When it came, ``time.monotonic()``.
        waits: Whether signals wait for the loop.
        served: Whether the run is ending; further signals change nothing.
        saved: Newest checkpoint that this process published, or None.
        resumed: Checkpoint that this process started from, or None.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.since = 0.0
        self.waits = self.served = False
        self.saved: str | None = None
        self.resumed: str | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The launcher passes a signal on to all ranks: the second one must not end a rank that has saved.
        ignore = self.number is not None and launched_ranks() is not None
        for number, before in self._before.items():
            signal.signal(number, signal.SIG_IGN if ignore else before)  # type: ignore[arg-type]

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within the block a signal, also one that was noted before, raises `Interrupted`."""
        before, self.waits = self.waits, False
        try:
            if self.number is not None:
                raise Interrupted
            yield
        finally:
            self.waits = before

    def note(self, number: int) -> None:
        """Notes the first signal, of this rank or of another."""
        self.number, self.since = number, time.monotonic()

    def error(self, when: str) -> VtpError:
        """The error that ends the run: `Preempted` if this process published a checkpoint, else `Stopped`.

        Args:
            when: Of what the signal was noticed, such as "after step 3".
        """
        self.served, self.waits = True, False
        number = self.number or signal.SIGTERM
        name = signal.Signals(number).name
        if self.saved is not None:
            return Preempted(f"stopped by {name} {when}: {self.saved} is saved, continue with --resume")
        goes_on = f"from {self.resumed}" if self.resumed else "at step 0"
        return Stopped(
            f"stopped by {name} {when}: this process saved no checkpoint; --resume goes on {goes_on}",
            number=number,
        )

    def _receive(self, number: int, _: FrameType | None) -> None:
        if self.number is None:
            self.note(number)
            if not self.waits:
                raise Interrupted
        elif self.is_second(number):
            self.leave(number)

    def is_second(self, number: int) -> bool:
        """Whether a signal that follows another asks the process to end at once."""
        return not self.served and (number != self.number or time.monotonic() - self.since > SAME_SECONDS)

    def leave(self, number: int) -> NoReturn:
        """Ends the process on a second signal, without saving."""
        newest = self.saved or self.resumed
        goes_on = f"from {newest}" if newest else "at step 0"
        say(f"error: ended by a second signal, {signal.Signals(number).name}; --resume goes on {goes_on}")
        leave(128 + number)


def say(text: str) -> None:
    """Writes a line to standard error, for at most a second: a pipe that nobody reads blocks."""
    line = f"{text}\n".encode(errors="replace")
    writer = threading.Thread(target=os.write, args=(2, line), daemon=True)
    writer.start()
    writer.join(1.0)
