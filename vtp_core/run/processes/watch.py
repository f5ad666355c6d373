"""A thread beside the main one: names stalls, serves signals if that one is stuck, ends with the launcher."""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import threading
import time
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType

import torch.distributed as dist

from vtp_core.errors import DistributedError
from vtp_core.run.processes.rank import launched_ranks, launcher, leave
from vtp_core.run.processes.signals import SAME_SECONDS, STOP_SIGNALS, StopSignals, say

_log = logging.getLogger(__name__)
_END_SECONDS = 10.0
"""Time that the main thread has to end when it need not finish a step."""
_LONG = 10.0
"""How much longer than a step saving and evaluating may take."""


@dataclass(frozen=True)
class _Place:
    """Where the main thread is since `began`."""

    text: str
    long: bool
    began: float


class Watch:
    """Watches the main thread of a run. A context manager, used in that thread.

    Args:
        stop: The run's stop signals.
        seconds: Time without progress after which a stall is named, and again after twice that time; after a
            stop signal, the time after which the process ends without having finished its step.
    """

    def __init__(self, stop: StopSignals, seconds: float) -> None:
        self.stop, self.seconds = stop, seconds
        self.rank, self.size = int(os.environ.get("RANK", "0")), launched_ranks() or 1
        self._place = _Place("starting", True, time.monotonic())
        self._named: tuple[_Place, float] = (self._place, seconds)
        self._noticed: tuple[int, float] | None = None
        self._launcher = launcher()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Watch:
        if threading.current_thread() is not threading.main_thread():
            return self
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        # Python's own handlers run between two lines of Python; this pipe is written to at once.
        self._before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._run, name="vtp-watch", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is None:
            return
        self._ended.set()
        signal.set_wakeup_fd(self._before)
        os.write(self._write, b"\0")
        self._thread.join()
        os.close(self._read)
        os.close(self._write)

    @property
    def doing(self) -> str:
        """What the main thread does, for a message."""
        return f"while {self._place.text}"

    def now(
        self, doing: str, *, step: int | None = None, keys: tuple[str, ...] = (), long: bool = False
    ) -> None:
        """Notes progress: what the main thread does from now on.

        Args:
            doing: Such as "loading data".
            step: Its step, counted from 1.
            keys: Keys of this rank's newest samples.
            long: Whether it may take long: it is not named as a stall, and a signal waits longer for it.
        """
        where = f"{doing} of step {step}" if step is not None else doing
        if keys:
            where += f" (newest samples: {', '.join(keys[-3:])})"
        self._place = _Place(where, long, time.monotonic())

    def _run(self) -> None:
        while not self._ended.is_set():
            if select.select([self._read], [], [], 0.5)[0]:
                for number in os.read(self._read, 4096):
                    if number in STOP_SIGNALS:
                        self._notice(number)
            if not self._ended.is_set():
                self._look(time.monotonic())

    def _notice(self, number: int) -> None:
        now = time.monotonic()
        if self._noticed is None:
            self._noticed = (number, now)
        elif number != self._noticed[0] or now - self._noticed[1] > SAME_SECONDS:
            time.sleep(0.2)  # the main thread serves it, if it can
            if not self.stop.served:
                self.stop.leave(number)

    def _look(self, now: float) -> None:
        if self._launcher is not None and os.getppid() != self._launcher:
            self._launcher = None
            say(f"rank {self.rank}: its launcher has ended; the run stops")
            os.kill(os.getpid(), signal.SIGTERM)
        place = self._place
        quiet = now - place.began
        if self._noticed is not None:
            limit = self.seconds * (_LONG if place.long else 1) if self.stop.waits else _END_SECONDS
            if now - max(place.began, self._noticed[1]) > limit:
                self._end(place, quiet, self._noticed[0])
        due = self._named[1] if self._named[0] is place else self.seconds
        if not place.long and quiet >= due:
            self._named = (place, 2 * due)
            threading.Thread(target=self._name_stall, args=(place.text, quiet), daemon=True).start()

    def _end(self, place: _Place, quiet: float, number: int) -> None:
        """Ends the process in place of the main thread, which is stuck in a call."""
        waits, self.stop.number = self.stop.waits, number
        error = self.stop.error(self.doing)
        if waits:
            newest = self.stop.saved or self.stop.resumed
            error = DistributedError(
                f"stopped by {signal.Signals(number).name}, but rank {self.rank} made no progress for "
                f"{quiet:.0f} s while {place.text}, so this step was not saved; --resume goes on "
                + (f"from {newest}" if newest else "at step 0")
            )
        say(f"error: {error}")
        leave(error.exit_code)

    def _name_stall(self, text: str, quiet: float) -> None:
        """Logs where this rank and the others stand; the lowest rank that still answers does it."""
        own = f"rank {self.rank}: {text}"
        said = {self.rank: own} if self.size == 1 else self._ask(own, max(3.0, self.seconds / 4))
        if self.rank != min(said):
            return
        silent = [str(rank) for rank in range(self.size) if rank not in said]
        lines = [said[rank] for rank in sorted(said)]
        if silent:
            lines.append(f"no report from rank {', '.join(silent)}, which is stopped, stuck or gone")
        _log.warning("no progress for %.0f s: %s", quiet, "; ".join(lines))

    def _ask(self, own: str, wait: float) -> dict[int, str]:
        """What the ranks that stall now say, by rank; over a connection of its own to the ranks' store."""
        said = {self.rank: own}
        try:
            address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
            store = dist.TCPStore(  # type: ignore[attr-defined]
                address, port, is_master=False, timeout=timedelta(seconds=5)
            )
            store.set(f"vtp/stall/{self.rank}", json.dumps([time.time(), own]))
            time.sleep(wait)
            for rank in range(self.size):
                if rank != self.rank and store.check([f"vtp/stall/{rank}"]):
                    when, line = json.loads(store.get(f"vtp/stall/{rank}"))
                    if time.time() - when < self.seconds:
                        said[rank] = line
        except (KeyError, ValueError, RuntimeError):
            pass  # no store, or none that answers: each rank reports only itself
        return said
