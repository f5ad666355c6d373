"""Times the variants of a case in turns, so that a busy moment of the machine hits all of them alike.

On one thread the clock is that thread's CPU time, which other processes don't change much. With more threads
CPU time adds up what runs side by side, so the clock is the wall's; on a GPU it is the device's own.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from vtp_plugins.bench.case import Case, CaseError

SHORTEST = 0.005
"""Seconds that one timed block lasts at least; short calls are repeated within a block."""

Clock = Callable[[], float]


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


def compare(case: Case) -> None:
    """Runs every variant once and compares its result with the reference's.

    Raises:
        CaseError: A variant computes something else; its time would mean nothing.
    """
    expected = case.variants[case.reference]()
    for name, call in case.variants.items():
        if complaint := case.check(call(), expected):
            raise CaseError(f"{case.name}: {name} disagrees with {case.reference}: {complaint}")


def measure(case: Case, rounds: int, clock: Clock, wall: Clock = time.perf_counter) -> dict[str, Timing]:
    """Times all variants, one block of each a round, first in another order each round.

    Args:
        case: What to time; `compare` it first.
        rounds: Timed blocks of each variant, at least 2.
        clock: Seconds.
        wall: Seconds of the wall, noted beside those of `clock`.
    """
    if rounds < 2:
        raise CaseError(f"{rounds} rounds have no spread: use 2 or more")
    repeats = {name: _calibrate(call, clock) for name, call in case.variants.items()}
    blocks: Mapping[str, list[tuple[float, float]]] = {name: [] for name in case.variants}
    order = list(case.variants)
    for _ in range(rounds):
        for name in order:
            start = wall()
            seconds = _block(case.variants[name], repeats[name], clock)
            blocks[name].append((seconds, (wall() - start) / repeats[name]))
        order.append(order.pop(0))
    return {name: summarise(times, repeats[name]) for name, times in blocks.items()}


def summarise(times: list[tuple[float, float]], repeats: int) -> Timing:
    """Median and quartiles of a variant's blocks, at least two pairs of clock and wall seconds."""
    low, median, high = statistics.quantiles([clock for clock, _ in times], n=4, method="inclusive")
    wall = statistics.median(seconds for _, seconds in times)
    return Timing(median=median, low=low, high=high, wall=wall, rounds=len(times), repeats=repeats)


class _DeviceClock:
    """Seconds of a CUDA device: each reading waits for all work before it."""

    def __init__(self, device: str) -> None:
        import torch

        self.device = torch.device(device)
        self.zero = torch.cuda.Event(enable_timing=True)
        self.zero.record()

    def __call__(self) -> float:
        import torch

        now = torch.cuda.Event(enable_timing=True)
        now.record()
        torch.cuda.synchronize(self.device)
        return self.zero.elapsed_time(now) / 1000


def _block(call: Callable[[], object], repeats: int, clock: Clock) -> float:
    start = clock()
    for _ in range(repeats):
        call()
    return (clock() - start) / repeats


def _calibrate(call: Callable[[], object], clock: Clock) -> int:
    """Calls that fill a block; the first ones also warm caches up."""
    call()
    repeats = 1
    while (seconds := _block(call, repeats, clock) * repeats) < SHORTEST and repeats < 1_000_000:
        repeats *= 10 if seconds <= 0 else max(2, min(10, round(SHORTEST / seconds)))
    return repeats
