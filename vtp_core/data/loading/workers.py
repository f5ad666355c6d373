"""Worker processes of a `DataLoader`: a death is one clear error, raised where it is read; none is left."""

from __future__ import annotations

import atexit
import ctypes
import signal
import sys
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from torch.utils.data import DataLoader
from torch.utils.data._utils import signal_handling
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from vtp_core.errors import DataError, known_error

Item = TypeVar("Item")

_PR_SET_PDEATHSIG = 1
_END: Any = object()


def read_all(loader: DataLoader[Item], *, setting: str, advice: str) -> Generator[Item]:
    """Reads a loader whose workers were prepared by `prepare_worker`, and ends them with the generator.

    Args:
        loader: The loader; without workers it is read as it is.
        setting: What sets the number of workers, for errors.
        advice: What to do when a worker was killed, for errors.

    Raises:
        DataError: A worker died.
        ResourceError: A worker can't be started.
    """
    loaded = _started(loader, setting, advice)
    # Workers ignore SIGTERM, which Python sends at its exit before it waits for them: end them first.
    stop = partial(end_workers, loaded)
    atexit.register(stop)
    try:
        while True:
            with deaths_raise(advice):
                item = next(loaded, _END)
            if item is _END:
                return
            yield item
    finally:
        stop()
        atexit.unregister(stop)


def _started(loader: DataLoader[Item], setting: str, advice: str) -> Iterator[Item]:
    """The loader's iterator, with its workers."""
    try:
        with deaths_raise(advice):
            return iter(loader)
    except OSError as error:
        end_started(error)
        doing = f"starting the {loader.num_workers} workers of the loader ({setting})"
        raise known_error(error, doing) or error from error


def prepare_worker(worker: int) -> None:
    """Called in each worker: it ends with its parent, which alone answers stop signals."""
    signal.set_wakeup_fd(-1)  # the parent's, inherited
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # it reaches the whole process group
    if sys.platform == "linux":  # elsewhere a worker looks for its parent when it waits for work
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


@contextmanager
def deaths_raise(advice: str) -> Iterator[None]:
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
        raise worker_death(error, advice) or _death_behind(advice) or error from error


def _raise(*_: object) -> None:
    signal_handling._error_if_any_worker_fails()  # type: ignore[attr-defined]


def _death_behind(advice: str) -> DataError | None:
    """The death that another error comes from: what a worker was sending when it died fails in many ways."""
    for _ in range(10):
        try:
            _raise()
        except RuntimeError as death:
            return worker_death(death, advice)
        time.sleep(0.05)  # the system has not yet said so
    return None


def worker_death(error: BaseException, advice: str) -> DataError | None:
    """The error to show if `error` says that a worker of the loader died, else None."""
    message = " ".join(str(error).split())
    if "DataLoader worker" not in message:
        return None
    first = message.split(". ")[0].rstrip(".")
    return DataError(
        f"{first}; it was killed, most often because memory or shared memory (/dev/shm) ran out: {advice}"
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
    if getattr(loaded, "_worker_pids_set", False):
        # Else torch's handler of SIGCHLD, if another loader has set it, takes their end for a failure.
        signal_handling._remove_worker_pids(id(loaded))  # type: ignore[attr-defined]
        loaded._worker_pids_set = False
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
