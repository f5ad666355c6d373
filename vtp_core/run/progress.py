"""Progress of a run: a bar with loss, rate and time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn


class RunProgress:
    """Shows the progress of a run on standard error. A context manager, used on rank 0.

    Args:
        total: Steps of the run.
        start: Steps that were done before (resume); the estimate of the time left excludes them.
        console: Where to write; default: standard error.
    """

    def __init__(self, total: int, start: int = 0, console: Console | None = None) -> None:
        self.total, self.start = total, start
        self._console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self._began = time.perf_counter()
        self._bar: Progress | None = None
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("step"), MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}"),
                console=self._console,
            )  # fmt: skip
            self._task = self._bar.add_task("", total=total, completed=start)
        self._text = ""

    def __enter__(self) -> RunProgress:
        self._began = time.perf_counter()
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
        if self._bar is not None:
            self._bar.update(self._task, completed=made, description=f"{self._text}  left {self.left(made)}")

    def log(self, made: int, loss: float, rows_per_s: float) -> None:
        """Shows the values of a logged step.

        Args:
            made: Finished steps.
            loss: Weighted sum of the objectives.
            rows_per_s: Samples a second, over all views and ranks.
        """
        self._text = f"loss {loss:.4f}  {rows_per_s:.0f} rows/s"
        self.step(made)
        if self._bar is None:
            self.message(f"step {made}/{self.total}  {self._text}  left {self.left(made)}")

    def message(self, text: str) -> None:
        """Prints a line, above the bar if there is one."""
        self._console.print(text, markup=False)

    def left(self, made: int) -> str:
        """Estimated time left, h:mm:ss, from the mean time of the steps so far; ``?`` before the first."""
        here = made - self.start
        if here <= 0:
            return "?"
        pace = (time.perf_counter() - self._began) / here
        return str(timedelta(seconds=round(pace * (self.total - made))))
