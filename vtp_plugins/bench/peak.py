"""The highest rate of multiply-adds that a CPU or GPU of this machine reaches, measured."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from vtp_plugins.kernels.timing import Clock, clock_for

ROUNDS = 9
STEPS = 400_000
"""Steps of the loop in one round: some milliseconds."""


SIDE = 8192
"""Rows and columns of the products that a GPU is measured by."""


def measure_device_peaks(device: str, side: int = SIDE) -> dict[str, float]:
    """Floating point operations per second of products of large matrices, by precision.

    Args:
        device: As torch names it.
        side: Rows and columns of the matrices.
    """
    import torch

    clock, _ = clock_for(1, device)
    peaks = {}
    for precision in ("float32", "bfloat16"):
        a, b = torch.randn(2, side, side, device=device, dtype=getattr(torch, precision)).unbind()
        out = a @ b
        rates = []
        for _ in range(ROUNDS):
            start = clock()
            torch.mm(a, b, out=out)
            rates.append(2.0 * side**3 / max(clock() - start, 1e-9))
        peaks[precision] = statistics.median(rates)
    return peaks


def measure_peaks(threads: int, clock: Clock = time.thread_time) -> dict[str, float]:
    """Floating point operations per second of `threads` cores, by precision.

    One core is measured and multiplied, in CPU time of its thread, so that other work doesn't lower the peak
    and flatter everything that is compared with it.

    Args:
        threads: Cores that are used.
        clock: Seconds of the calling thread.

    Returns:
        ``float32`` and, if the instruction set has it, ``bfloat16``; empty without the native kernels.
    """
    loop = _native_loop()
    if loop is None:
        return {}
    peaks = {}
    for precision in ("float32", "bfloat16"):
        if loop(precision, 1) == 0:
            continue
        rates = []
        for _ in range(ROUNDS):
            start = clock()
            done = loop(precision, STEPS)
            rates.append(done / (clock() - start))
        peaks[precision] = statistics.median(rates) * threads
    return peaks


def _native_loop() -> Callable[[str, int], int] | None:
    import torch

    try:
        import vtp_plugins.kernels._C_cpu  # type: ignore[import-not-found,unused-ignore]  # noqa: F401
    except ImportError:
        return None
    operator = torch.ops.vtp_cpu.multiply_adds
    return lambda precision, steps: int(operator(precision, steps))
