"""Runs workers until every shape is measured, and puts their results together."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from vtp_core.errors import UsageError
from vtp_core.ops import Ranking
from vtp_plugins.kernels.tuning.problem import CHOICES, operator_of
from vtp_plugins.kernels.tuning.shapes import SHAPES
from vtp_plugins.kernels.tuning.worker import BROKEN

COMMAND = (sys.executable, "-m", "vtp_plugins.kernels.tuning.worker")

SILENCE = 180.0
"""Seconds without an event after which a worker is ended: Triton compiles a kernel in a few, or it hangs."""


@dataclass(kw_only=True)
class Measured:
    """Result of one shape.

    Attributes:
        index: Of `SHAPES`.
        seconds: Name -> what was timed -> median seconds, of implementations and of yardsticks.
        implementations: Names of those that agreed with the reference.
        attributes: What a ranking distinguishes.
        work: What no implementation can avoid, as `Problem.work` states it.
        refused: Name -> why it was not tried.
        failed: Name -> how it disagreed with the reference, or ended.
        skipped: Why nothing was timed, or None.
    """

    index: int
    seconds: dict[str, dict[str, float]] = field(default_factory=dict)
    implementations: list[str] = field(default_factory=list)
    attributes: dict[str, Any] = field(default_factory=dict)
    work: dict[str, float] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    skipped: str | None = "not measured, the time was up"

    @property
    def operator(self) -> str:
        """The operator of the shape."""
        return operator_of(SHAPES[self.index])

    @property
    def order(self) -> list[str]:
        """Implementations by the time of a training step, the fastest first."""
        return sorted(self.implementations, key=lambda name: self.seconds[name]["step"])


class Session:
    """One measurement of some shapes on a device.

    Attributes:
        measured: What became of each shape, in their order.
    """

    def __init__(
        self,
        device: str,
        shapes: Sequence[int],
        *,
        rounds: int = 5,
        threads: int = 1,
        seconds: float | None = None,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Plans a measurement.

        Args:
            device: As torch names it.
            shapes: Indices of `SHAPES`.
            rounds: Timed blocks of each implementation.
            threads: Of torch on a CPU.
            seconds: Time after which no further shape is measured; None: no limit.
            tell: Is called with a line about each shape and each failure.
        """
        self.device, self.rounds, self.threads, self.tell = device, rounds, threads, tell
        self.deadline = None if seconds is None else time.monotonic() + seconds
        self.measured = [Measured(index=index) for index in shapes]
        self._by_index = {it.index: it for it in self.measured}
        self._pending = list(shapes)
        self._excluded: set[tuple[str, str, str]] = set()
        self._current: tuple[int, str | None] | None = None

    def run(self) -> None:
        """Measures all shapes; an implementation that fails is left out for its dtype from there on.

        Raises:
            UsageError: A worker ends before it measures anything.
        """
        while self._pending and not self._late():
            reason = self._work()
            if reason is None or self._late():
                continue
            if self._current is None:
                raise UsageError(f"vtp kernels tune: a worker could not start: {reason}")
            index, name = self._current
            if name is None:
                self._done(index, reason)
            else:
                self._fail(index, name, reason)

    def ranking(self, operator: str) -> Ranking:
        """The order of an operator's implementations that agreed in all shapes of their dtype."""
        cases = [
            {"case": it.attributes, "names": [name for name in it.order if not self._left_out(it, name)]}
            for it in self.measured
            if it.skipped is None and it.operator == operator
        ]
        data = {"device": torch.device(self.device).type, "cases": cases}
        return Ranking.from_data(data, CHOICES[operator].attributes())

    def _left_out(self, measured: Measured, name: str) -> bool:
        return (measured.operator, name, SHAPES[measured.index].dtype) in self._excluded

    def _late(self) -> bool:
        return self.deadline is not None and time.monotonic() > self.deadline

    def _work(self) -> str | None:
        """Runs a worker on what is pending; why it ended early, or None if all is measured."""
        self._current = None
        order = {
            "device": self.device,
            "shapes": self._pending,
            "rounds": self.rounds,
            "threads": self.threads,
            "excluded": sorted(self._excluded),
        }
        with tempfile.TemporaryFile("w+") as errors:
            command = [*COMMAND, json.dumps(order)]
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as worker:
                silent = self._listen(worker)
            errors.seek(0)
            said = [line.strip() for line in errors.read().splitlines() if line.strip()]
        if not self._pending:
            return None
        if silent:
            return f"gave no sign of life for {SILENCE:.0f} s"
        if worker.returncode == BROKEN:
            return "left the device unusable"
        last = said[-1] if said else "no message"
        return f"ended the process (exit code {worker.returncode}: {last[:300]})"

    def _listen(self, worker: subprocess.Popen[str]) -> bool:
        """Takes in events until the worker ends or time is up; whether it was silent for too long."""
        events: queue.Queue[str | None] = queue.Queue()

        def read() -> None:
            assert worker.stdout is not None
            for line in worker.stdout:
                events.put(line)
            events.put(None)

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        silent = False
        try:
            while not self._late():
                left = SILENCE if self.deadline is None else self.deadline - time.monotonic()
                line = events.get(timeout=max(0.01, min(SILENCE, left)))
                if line is None:
                    worker.wait()
                    break
                self._take(json.loads(line))
        except queue.Empty:
            silent = not self._late()
        finally:
            worker.kill()
            reader.join()
        return silent

    def _take(self, event: dict[str, Any]) -> None:
        index: int = event["index"]
        name: str = event.get("name", "")
        match event["event"]:
            case "shape":
                self._current = (index, None)
                self.tell(str(SHAPES[index]))
            case "trying":
                self._current = (index, name)
            case "timing":
                self._current = (index, None)
            case "refused":
                self._by_index[index].refused[name] = event["reason"]
            case "failed":
                self._fail(index, name, event["reason"])
            case "skipped":
                self._done(index, event["reason"])
            case "timed":
                measured = self._by_index[index]
                measured.seconds, measured.attributes = event["seconds"], event["attributes"]
                measured.implementations, measured.work = event["implementations"], event["work"]
                self._done(index, None)

    def _fail(self, index: int, name: str, reason: str) -> None:
        measured = self._by_index[index]
        if name not in measured.failed:  # the first reason is the cause
            measured.failed[name] = reason
            self._excluded.add((measured.operator, name, SHAPES[index].dtype))
            self.tell(f"  {name} is left out for {SHAPES[index].dtype}: {reason}")

    def _done(self, index: int, reason: str | None) -> None:
        self._by_index[index].skipped = reason
        self._pending.remove(index)
        if reason is not None:
            self.tell(f"  not measured: {reason}")


def all_shapes(operators: Collection[str] = tuple(CHOICES)) -> list[int]:
    """Indices of the shapes of operators."""
    return [index for index, shape in enumerate(SHAPES) if operator_of(shape) in operators]
