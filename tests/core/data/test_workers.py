"""Worker processes of loaders: deaths, stop signals, and their end."""

from __future__ import annotations

import errno
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest
from torch.utils.data._utils import signal_handling

from tests.core.data.making import DrawnSource
from tests.core.data.test_loader import NEEDS, VIEWS, load
from vtp_core.data.loading.loader import Loader
from vtp_core.data.loading.workers import worker_death
from vtp_core.data.source import Sample
from vtp_core.errors import DataError, ResourceError


class Killing(DrawnSource):
    """A source whose reader dies, as if the system had killed it for its memory."""

    def read(self, index: int, fields: frozenset[str]) -> Sample:
        if multiprocessing.parent_process() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(index, fields)


def test_killed_worker_is_one_clear_error() -> None:
    before = signal.getsignal(signal.SIGCHLD)
    with pytest.raises(DataError, match=r"DataLoader worker \(pid.*data\.workers"):
        load(Killing(), workers=1)
    assert signal.getsignal(signal.SIGCHLD) is before


def test_a_worker_that_can_not_be_forked_is_one_clear_error_and_leaves_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started, fork = [], os.fork

    def refused() -> int:
        if len(started) == 1:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        started.append(1)
        return fork()

    monkeypatch.setattr(os, "fork", refused)
    loader = Loader(VIEWS, NEEDS, {"default": DrawnSource()}, seed=0, steps=9, patch=4, workers=2)
    with pytest.raises(ResourceError) as caught:
        next(iter(loader))
    says = (
        "starting the 2 workers of the loader (data.workers): Cannot allocate memory; free memory, or lower"
    )
    assert str(caught.value).startswith(says)
    del caught
    gc.collect()
    assert started and not multiprocessing.active_children()


def test_other_errors_are_no_worker_death() -> None:
    assert worker_death(RuntimeError("shape mismatch"), "") is None


def test_workers_that_are_ended_are_no_failure_to_the_handler_of_another_loader() -> None:
    """torch sets its handler of SIGCHLD with the first loader that has workers, and leaves it."""
    before = signal.signal(signal.SIGCHLD, lambda *_: signal_handling._error_if_any_worker_fails())  # type: ignore[attr-defined]
    try:
        for _ in range(3):
            steps = iter(
                Loader(VIEWS, NEEDS, {"default": DrawnSource()}, seed=0, steps=9, patch=4, workers=2)
            )
            next(steps)
            steps.close()
            assert not multiprocessing.active_children()
    finally:
        signal.signal(signal.SIGCHLD, before)


@pytest.mark.parametrize("stopped", [False, True])
def test_a_worker_that_dies_between_two_steps_raises_at_the_next_one_alone(stopped: bool) -> None:
    """Not in the middle of a step or a save, as torch's handler would; a stopped worker is ended too."""
    loader = Loader(VIEWS, NEEDS, {"default": DrawnSource()}, seed=0, steps=100, patch=4, workers=2)
    steps = iter(loader)
    next(steps)
    first, second = multiprocessing.active_children()
    if stopped:
        os.kill(first.pid, signal.SIGSTOP)  # type: ignore[arg-type]
    os.kill(second.pid, signal.SIGKILL)  # type: ignore[arg-type]
    os.waitid(os.P_PID, second.pid, os.WEXITED | os.WNOWAIT)
    time.sleep(0.01)  # torch's handler would raise here
    with pytest.raises(DataError, match=rf"DataLoader worker \(pid.*{second.pid}.*data\.workers"):
        next(steps)
    assert not multiprocessing.active_children()


class Slow(DrawnSource):
    """A source that gives the test time to send signals."""

    def read(self, index: int, fields: frozenset[str]) -> Sample:
        time.sleep(0.01)
        return super().read(index, fields)


def test_workers_ignore_stop_signals() -> None:
    loader = Loader(VIEWS, NEEDS, {"default": Slow()}, seed=0, steps=6, patch=4, workers=2)
    steps = iter(loader)
    assert next(steps)[0] == 0
    for child in multiprocessing.active_children():
        os.kill(child.pid, signal.SIGTERM)  # type: ignore[arg-type]
        os.kill(child.pid, signal.SIGINT)  # type: ignore[arg-type]
        os.kill(child.pid, signal.SIGUSR1)  # type: ignore[arg-type]
    assert [step for step, _ in steps] == [1, 2, 3, 4, 5]


def test_a_failing_run_ends_although_workers_ignore_signals() -> None:
    """Python ends its children by SIGTERM at exit and waits for them; the iterator is still alive then."""
    script = """
from tests.core.data.test_loader import NEEDS, VIEWS, DrawnSource
from vtp_core.data.loading.loader import Loader
steps = iter(Loader(VIEWS, NEEDS, {"default": DrawnSource()}, seed=0, steps=100, patch=4, workers=2))
next(steps)
raise SystemExit(7)
"""
    ended = subprocess.run([sys.executable, "-c", script], timeout=120, check=False)
    assert ended.returncode == 7
