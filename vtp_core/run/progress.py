"""Progress on standard error, of steps and of passes over data: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from vtp_core.evaluation.progress import Advance

LINE_SECONDS = 10.0
"""Least time between two lines of a pass where there is no terminal."""


class RunProgress:
    """Shows the progress of a run on standard error. A context manager, used on rank 0.

    Args:
        total: Steps of the run.
        start: Steps that were done before (resume). The estimate of the time left excludes them and the first
            step here, which waits for workers to start.
        console: Where to write; default: standard error.
    """

    def __init__(self, total: int, start: int = 0, console: Console | None = None) -> None:
        self.total, self.start = total, start
        self._console = console or _stderr()
        self._since: tuple[float, int] | None = None
        self._bar: Progress | None = None
        if self._console.is_terminal:
            self._bar = _bars(self._console)
            self._task = self._bar.add_task("step", total=total, completed=start, state="")
        self._text = ""

    def __enter__(self) -> RunProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def step(self, made: int) -> None:
        """Moves the bar to `made` finished steps, resumed ones included."""
        if self._since is None and made > self.start:
            self._since = (time.perf_counter(), made)
        if self._bar is not None:
            self._bar.update(self._task, completed=made, state=f"{self._text}  left {self.left(made)}")

    def log(self, made: int, loss: float, rows_per_s: float) -> None:
        """Shows the values of a logged step.

        Args:
            made: Finished steps.
            loss: Weighted sum of the objectives.
            rows_per_s: Samples a second, over all views and ranks.
        """
        rate = f"{rows_per_s:.0f}" if rows_per_s >= 10 else f"{rows_per_s:.2g}"
        self._text = f"loss {loss:.4f}  {rate} rows/s"
        self.step(made)
        if self._bar is None:
            self.message(f"step {made}/{self.total}  {self._text}  left {self.left(made)}")

    def message(self, text: str) -> None:
        """Prints a line, above the bar if there is one."""
        _say(self._console, text)

    def left(self, made: int) -> str:
        """Estimated time left, h:mm:ss, from the mean time of the steps so far; ``?`` before the second."""
        if self._since is None or made <= self._since[1]:
            return "?"
        return _left(self._since[0], made - self._since[1], self.total - made)

    @contextmanager
    def show(self, title: str, total: int = 0) -> Iterator[Advance]:
        """Shows a pass during the run, as `vtp_core.evaluation.progress.Show`; its time is no step's."""
        began = time.perf_counter()
        with _pass(self._console, self._bar, title, total) as advance:
            yield advance
        if self._since is not None:
            self._since = (self._since[0] + time.perf_counter() - began, self._since[1])


@contextmanager
def show_pass(title: str, total: int = 0, console: Console | None = None) -> Iterator[Advance]:
    """Shows a pass on standard error, as `vtp_core.evaluation.progress.Show`."""
    console = console or _stderr()
    bars = _bars(console) if console.is_terminal else None
    with bars or nullcontext(), _pass(console, bars, title, total) as advance:
        yield advance


def _say(console: Console, text: str) -> None:
    with suppress(OSError):  # standard error on a full disk costs its lines, not the run
        console.print(text, markup=False)


@contextmanager
def _pass(console: Console, bars: Progress | None, title: str, total: int) -> Iterator[Advance]:
    began = last = time.perf_counter()
    done = 0
    if bars is None:
        _say(console, _named(title, total))
    else:
        task = bars.add_task(title, total=total or None, state="")

    def advance(count: int) -> None:
        nonlocal done, last
        done = min(done + count, total)
        state = f"left {_left(began, done, total - done)}" if done else ""
        now = time.perf_counter()
        if bars is not None:
            bars.update(task, completed=done, state=state)
        elif now - last >= LINE_SECONDS and done < total:
            last = now
            _say(console, f"{title}: {done}/{total}  {state}")

    try:
        yield advance
    finally:
        if bars is not None:
            bars.remove_task(task)
            _say(console, _named(title, done) if total else title)


def _stderr() -> Console:
    return Console(stderr=True, highlight=False, soft_wrap=True)


def _bars(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False), MofNCompleteColumn(), BarColumn(),
        TextColumn("{task.fields[state]}", markup=False), console=console,
    )  # fmt: skip


def _named(title: str, count: int) -> str:
    return f"{title}: {count} image{'' if count == 1 else 's'}" if count else title


def _left(began: float, done: int, rest: int) -> str:
    return str(timedelta(seconds=round((time.perf_counter() - began) / done * rest)))
