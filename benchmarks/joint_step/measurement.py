"""Times and memory of the rungs: thread CPU time in turns, allocations counted in a child each."""

from __future__ import annotations

import datetime
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.joint_step.ladder import CLOSE, CLOSE_ON_GPU, Rung, build_rung, disagreement
from benchmarks.joint_step.setting import Sizes
from vtp_plugins.bench.case import BenchCase, CaseError
from vtp_plugins.bench.config import Precision
from vtp_plugins.bench.memory import counted
from vtp_plugins.bench.peak import measure_device_peaks
from vtp_plugins.bench.report import Circumstances, result
from vtp_plugins.bench.runner import serving
from vtp_plugins.kernels.timing import Clock, Timing, clock_for, summarize

PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")


def key(name: str, precision: str) -> str:
    """Name of a rung in one precision."""
    return f"{name}, {precision}"


def run_ladder(names: Sequence[str], sizes: Sizes, rounds: int, device: str = "cpu") -> dict[str, Any]:
    """The rungs in both precisions, timed in one process; the first is the reference.

    Args:
        names: Keys of `RUNGS`, the plain one first.
        sizes: Sizes.
        rounds: Steps of each that are timed.
        device: As torch names it; on a GPU operations and memory are counted there too.

    Returns:
        Data of a report; ``load`` is the machine's mean load at the start and the end.

    Raises:
        CaseError: First losses disagree, within a precision or with float32.
    """
    if rounds < 2:
        raise CaseError(f"{rounds} rounds have no spread: use 2 or more")
    if device == "cpu" and torch.get_num_threads() != 1:
        raise CaseError("joint_step: steps are timed on one thread, by its CPU time")
    load = os.getloadavg()[0]
    rungs = {key(name, kind): build_rung(name, kind, sizes, device) for kind in PRECISIONS for name in names}
    close = CLOSE if device == "cpu" else CLOSE_ON_GPU
    for name, rung in rungs.items():
        for other in (key(names[0], rung.precision), key(names[0], "float32")):
            if complaint := disagreement(rung, rungs[other], close):
                raise CaseError(f"joint_step: {name} disagrees with {other}: {complaint}")
    clock, clock_name = clock_for(1, device)
    timings = _time(rungs, rounds, clock)
    circumstances = Circumstances(
        date=datetime.date.today().isoformat(),
        clock=clock_name,
        threads=1,
        peaks={} if device == "cpu" else measure_device_peaks(device),
        kernels=serving(device),
    )
    flop = None if device == "cpu" else _flop(rungs[key(names[0], "bfloat16")])
    extra = {
        "sizes": asdict(sizes),
        "load": [load, os.getloadavg()[0]],
        "cores": os.cpu_count(),
        "names": list(names),
        "first_losses": {name: rung.first for name, rung in rungs.items()},
    }
    memory = None if device == "cpu" else {name: _device_peak(rung, device) for name, rung in rungs.items()}
    return result(_case(rungs, sizes, flop), timings, circumstances, memory) | extra


def count_memory(found: dict[str, Any], sizes: Sizes, *, tiny: bool) -> None:
    """Adds ``peak_bytes`` to each rung: the most that a step holds beyond weights, moments and EMA copies.

    Args:
        found: Of `run_ladder`.
        sizes: What it was run with.
        tiny: Whether those are `TINY`.

    Raises:
        CaseError: Allocations can't be counted here.
    """
    for name in found["names"]:
        for kind in PRECISIONS:
            command = [sys.executable, "-m", "benchmarks.joint_step", "--rows", str(sizes.rows)]
            command += ["--count", name, kind, *(["--tiny"] if tiny else [])]
            found["variants"][key(name, kind)]["peak_bytes"] = counted(command, f"joint_step: {name}")


def _flop(rung: Rung) -> float:
    """Floating point operations of a step in plain torch."""
    with FlopCounterMode(display=False) as counter:
        rung.step()
    return float(counter.get_total_flops())


def _device_peak(rung: Rung, device: str) -> int:
    """Most bytes of a GPU that a step holds beyond what was held before it."""
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    rung.step()
    return torch.cuda.max_memory_allocated(device) - before


def _time(rungs: dict[str, Rung], rounds: int, clock: Clock) -> dict[str, Timing]:
    """One step of each a round after one that is not timed, in another order each round."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in rungs}
    order = list(rungs)
    for number in range(rounds + 1):
        for name in order:
            seconds, wall = clock(), time.perf_counter()
            rungs[name].step()
            if number:
                times[name].append((clock() - seconds, time.perf_counter() - wall))
        order.append(order.pop(0))
    return {name: summarize(pairs, 1) for name, pairs in times.items()}


def _case(rungs: dict[str, Rung], sizes: Sizes, flop: float | None) -> BenchCase:
    return BenchCase(
        name="joint_step",
        question="What does one joint step cost beside the same losses as three plain torch training steps?",
        rows=sizes.rows,
        unit="rows",
        variants={name: rung.step for name, rung in rungs.items()},
        check=lambda _found, _expected: None,
        flop=flop,
        peak="bfloat16",
        shape=f"width {sizes.width}, depth {sizes.depth}, {sizes.rows} rows, {sizes.prototypes} prototypes",
    )
