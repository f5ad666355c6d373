"""Times several calls in turns, so that a busy moment of the machine affects all of them alike.

On one thread the clock is that thread's CPU time, which other processes don't change much. With more threads
CPU time adds up what runs side by side, so the clock is the wall's; on a GPU it is the device's own.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

SHORTEST = 0.005
"""Seconds that one timed block lasts at least; short calls are repeated within a block."""

Clock = Callable[[], float]
Call = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Times of one variant, in seconds per call.

    Attributes:
        median: Median over rounds, by the clock of the report.
        low: First quartile.
        high: Third quartile.
        wall: Median of the wall time.
        rounds: Timed blocks.
        repeats: Calls in each block.
    """

    median: float
    low: float
    high: float
    wall: float
    rounds: int
    repeats: int


def clock_for(threads: int, device: str = "cpu") -> tuple[Clock, str]:
    """The clock for a number of threads on a device, and its name for the report."""
    if device != "cpu":
        return _DeviceClock(device), "CUDA events"
    return (time.thread_time, "thread CPU time") if threads == 1 else (time.perf_counter, "wall time")


def measure(
    calls: Mapping[str, Call], rounds: int, clock: Clock, wall: Clock = time.perf_counter
) -> dict[str, Timing]:
    """Times all calls, one block of each a round, first in another order each round.

    Args:
        calls: Name -> call; each runs at least once before it is timed.
        rounds: Timed blocks of each, at least 2.
        clock: Seconds.
        wall: Seconds of the wall, noted beside those of `clock`.
    """
    repeats = {name: _calibrate(call, clock) for name, call in calls.items()}
    blocks: Mapping[str, list[tuple[float, float]]] = {name: [] for name in calls}
    order = list(calls)
    for _ in range(rounds):
        for name in order:
            start = wall()
            seconds = _block(calls[name], repeats[name], clock)
            blocks[name].append((seconds, (wall() - start) / repeats[name]))
        order.append(order.pop(0))
    return {name: summarize(times, repeats[name]) for name, times in blocks.items()}


def measure_part(call: Callable[[Clock], float], timing: Timing, clock: Clock) -> Timing:
    """Times a part of a call in place, in as many rounds and calls as the whole call was timed in.

    Args:
        call: Makes a call and returns the seconds of the part by the clock that it is given.
        timing: Of the whole call.
        clock: Seconds.
    """
    call(clock)
    rounds = [sum(call(clock) for _ in range(timing.repeats)) / timing.repeats for _ in range(timing.rounds)]
    return summarize([(seconds, seconds) for seconds in rounds], timing.repeats)


def summarize(times: list[tuple[float, float]], repeats: int) -> Timing:
    """Median and quartiles of a call's blocks, at least two pairs of clock and wall seconds."""
    low, median, high = statistics.quantiles([clock for clock, _ in times], n=4, method="inclusive")
    wall = statistics.median(seconds for _, seconds in times)
    return Timing(median=median, low=low, high=high, wall=wall, rounds=len(times), repeats=repeats)


class _DeviceClock:
    """Seconds of a CUDA device; each reading waits for all work before it."""

    def __init__(self, device: str) -> None:
        import torch

        self.stream = torch.cuda.current_stream(torch.device(device))
        self.last = self._event()
        self.seconds = 0.0

    def __call__(self) -> float:
        now = self._event()
        now.synchronize()
        # From reading to reading: a long interval has few digits.
        self.seconds += self.last.elapsed_time(now) / 1000
        self.last = now
        return self.seconds

    def _event(self) -> torch.cuda.Event:
        import torch

        event = torch.cuda.Event(enable_timing=True)
        event.record(self.stream)
        return event


def _block(call: Call, repeats: int, clock: Clock) -> float:
    start = clock()
    for _ in range(repeats):
        call()
    return (clock() - start) / repeats


def _calibrate(call: Call, clock: Clock) -> int:
    """Calls that fill a block; the first ones also warm caches up."""
    call()
    repeats = 1
    while (seconds := _block(call, repeats, clock) * repeats) < SHORTEST and repeats < 1_000_000:
        repeats *= 10 if seconds <= 0 else max(2, min(10, round(SHORTEST / seconds)))
    return repeats
