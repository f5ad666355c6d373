"""Workers of the loader that die: one clear error, raised where the loader is asked, and no process left."""

from __future__ import annotations

import ctypes
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.utils.data._utils import signal_handling
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from vtp_core.errors import DataError

_PR_SET_PDEATHSIG = 1


def prepare_worker(worker: int) -> None:
    """Called in each worker: it ends with its parent, which alone answers stop signals."""
    signal.set_wakeup_fd(-1)  # the parent's, inherited
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # it reaches the whole process group
    if sys.platform == "linux":  # elsewhere a worker looks for its parent when it waits for work
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


@contextmanager
def deaths_raise() -> Iterator[None]:
    """Within the block, and nowhere else, the death of a worker raises `DataError`, also an earlier one.

    torch raises it in a handler of SIGCHLD that stays for good: anywhere in the main thread, where it becomes
    the error of a save or of an evaluation.
    """
    usable = hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread()
    try:
        before = signal.getsignal(signal.SIGCHLD) if usable else None
        try:
            if usable:
                signal.signal(signal.SIGCHLD, _raise)
            _raise()
            yield
        finally:
            if usable:
                signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)
    except (RuntimeError, OSError, EOFError) as error:  # the handler is off by now
        raise worker_death(error) or _death_behind() or error from error


def _raise(*_: object) -> None:
    signal_handling._error_if_any_worker_fails()  # type: ignore[attr-defined]


def _death_behind() -> DataError | None:
    """The death that another error comes from: what a worker was sending when it died fails in many ways."""
    for _ in range(10):
        try:
            _raise()
        except RuntimeError as death:
            return worker_death(death)
        time.sleep(0.05)  # the system has not yet said so
    return None


def worker_death(error: BaseException) -> DataError | None:
    """The error to show if `error` says that a worker of the loader died, else None."""
    message = " ".join(str(error).split())
    if "DataLoader worker" not in message:
        return None
    first = message.split(". ")[0].rstrip(".")
    return DataError(
        f"{first}; it was killed, most often because memory or shared memory (/dev/shm) ran out: "
        "lower data.workers or data.prefetch, or give the container more; the run resumes with --resume"
    )


def end_started(error: BaseException) -> None:
    """Ends the workers that ran when `error` kept the next one from its start; torch's iterator fails to."""
    trace = error.__traceback__
    while trace is not None:
        made = trace.tb_frame.f_locals.get("self")
        if isinstance(made, _MultiProcessingDataLoaderIter):
            made._shutdown = True
            end_workers(made)
            return
        trace = trace.tb_next


def end_workers(loaded: Any) -> None:
    """Ends the workers of an iterator of a `DataLoader`; they hold nothing that could be lost."""
    workers = getattr(loaded, "_workers", ())
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.join()
    if workers:
        # torch's way of ending waits for these, which a worker that was killed or stopped may hold.
        loaded._workers_done_event = threading.Event()
        if hasattr(loaded, "_pin_memory_thread"):
            loaded._pin_memory_thread_done_event.set()
            del loaded._pin_memory_thread
        loaded._shutdown_workers()
