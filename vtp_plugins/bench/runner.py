"""Runs cases under the same conditions: threads, clock and peaks are set once, at the start."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from typing import Any

import torch

from vtp_core.ops import AttentionChoice, AttentionKernel, SearchKernel
from vtp_core.ops.installed import installed_ranking
from vtp_plugins.bench.case import CASES, BenchCase, CaseError, compare, complaints
from vtp_plugins.bench.config import BenchOptions
from vtp_plugins.bench.memory import peak_bytes
from vtp_plugins.bench.peak import measure_device_peaks, measure_peaks
from vtp_plugins.bench.peers.ours import usable
from vtp_plugins.bench.report import Circumstances, result
from vtp_plugins.kernels.cpu.instruction_set import cpu_isa
from vtp_plugins.kernels.native.loading import why_missing
from vtp_plugins.kernels.timing import clock_for, measure, measure_part


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
            CaseError: There is no such device, or fewer than 2 rounds.
            UsageError: `VTP_CPU_ISA` names no instruction set of this CPU.
        """
        if rounds < 2:
            raise CaseError(f"{rounds} rounds have no spread: use 2 or more")
        _check_device(options.device)
        kernels = serving(options.device)
        torch.set_num_threads(options.threads)
        self.options = options
        self.rounds = rounds
        self.packages = packages
        self.clock, clock_name = clock_for(options.threads, options.device)
        self.circumstances = Circumstances(
            date=datetime.date.today().isoformat(),
            clock=clock_name,
            threads=options.threads,
            peaks=measure_peaks(options.threads)
            if options.device == "cpu"
            else measure_device_peaks(options.device),
            kernels=kernels,
        )

    def run(self, case: BenchCase, memory: bool = False) -> dict[str, Any]:
        """Checks that the variants agree, times them, and counts their memory if asked to.

        Raises:
            CaseError: Variants disagree, the shape suits no operator, or allocations can't be counted here.
        """
        with complaints(f"{case.name}: shape {case.shape!r}"):
            compare(case)
            timings = measure(case.variants, self.rounds, self.clock)
            whole = timings[case.reference]
            parts = {name: measure_part(call, whole, self.clock) for name, call in case.parts.items()}
        counted = None
        if memory:
            counted = {name: peak_bytes(case, name, self.options, self.packages) for name in case.variants}
        return result(case, timings, self.circumstances, counted, parts)


def _check_device(name: str) -> None:
    if name == "cpu":
        return
    found = re.fullmatch(r"cuda(?::(\d+))?", name)
    if found is None:
        raise CaseError(f'device {name}: unknown; use "cpu", "cuda" or "cuda:0"')
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        raise CaseError(f"device {name}: torch sees no GPU here")
    if int(found[1] or 0) >= count:
        raise CaseError(f"device {name}: torch sees {count} here")


def serving(device: str = "cpu") -> str:
    """Names of the native kernels that our operators can use on a device."""
    if device != "cpu":
        kernels = [*usable(AttentionKernel, device), *usable(SearchKernel, device)]
        names = dict.fromkeys(kernel.name for kernel in kernels)
        tuned = installed_ranking(AttentionChoice, torch.device(device)) is not None
        return f"{', '.join(names) or 'torch only'}; {'tuned' if tuned else 'not tuned: auto is torch'}"
    return (
        f"native, {cpu_isa()}" if why_missing("_C_cpu") is None else "torch only (native kernels not built)"
    )
