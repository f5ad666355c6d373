"""Runs cases under one set of circumstances: threads, clock and peaks are settled once, at the start."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

import torch

from vtp_plugins.bench.case import CASES, Case, CaseError
from vtp_plugins.bench.config import BenchOptions
from vtp_plugins.bench.measure import clock_for, compare, measure
from vtp_plugins.bench.memory import peak_bytes
from vtp_plugins.bench.peak import measure_peaks
from vtp_plugins.bench.report import Circumstances, result


class Runner:
    """Times one case after another.

    Attributes:
        circumstances: What all its results were measured under.
    """

    def __init__(self, options: BenchOptions, rounds: int, packages: Sequence[str] = (CASES,)) -> None:
        """Sets torch's threads and measures the peaks.

        Args:
            options: Threads and device.
            rounds: Timed blocks of each variant.
            packages: Where a child that counts memory finds the cases.

        Raises:
            CaseError: There is no such device.
        """
        if options.device.startswith("cuda") and not torch.cuda.is_available():
            raise CaseError(f"device {options.device}: torch sees no GPU here")
        torch.set_num_threads(options.threads)
        self.options = options
        self.rounds = rounds
        self.packages = packages
        self.clock, clock_name = clock_for(options.threads, options.device)
        self.circumstances = Circumstances(
            date=datetime.date.today().isoformat(),
            clock=clock_name,
            threads=options.threads,
            peaks=measure_peaks(options.threads) if options.device == "cpu" else {},
            kernels=serving(),
        )

    def run(self, case: Case, memory: bool = False) -> dict[str, Any]:
        """Checks that the variants agree, times them, and counts their memory if asked to.

        Raises:
            CaseError: Variants disagree, or allocations can't be counted here.
        """
        compare(case)
        timings = measure(case, self.rounds, self.clock)
        counted = None
        if memory:
            counted = {name: peak_bytes(case, name, self.options, self.packages) for name in case.variants}
        return result(case, timings, self.circumstances, counted)


def serving() -> str:
    """Which native kernels serve our operators on this CPU."""
    try:
        import vtp_plugins.kernels._C_cpu  # type: ignore[import-not-found,unused-ignore]  # noqa: F401
    except ImportError:
        return "torch only (native kernels not built)"
    return f"native, {torch.ops.vtp_cpu.isa()}"
