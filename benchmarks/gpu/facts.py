"""`python -m benchmarks.gpu.facts DEVICE FILE`: what the device is and what it reaches, as JSON."""

from __future__ import annotations

import json
import platform
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from vtp_core import installation
from vtp_plugins.bench.gpu_limits import sheet_of
from vtp_plugins.bench.peak import SIDE, measure_device_peaks
from vtp_plugins.kernels.timing import clock_for
from vtp_plugins.kernels.tuning.key import key_of

COPIED = 2**31
"""Bytes of the copy that the memory is measured by."""


def facts(name: str, *, small: bool = False) -> dict[str, Any]:
    """What a report says of a device.

    Args:
        name: As torch names it.
        small: Whether to measure with tiny sizes, which show that it works and nothing else.
    """
    device = torch.device(name)
    cuda = device.type == "cuda"
    card = torch.cuda.get_device_properties(device) if cuda else None
    key = key_of(device)
    sheet, side = sheet_of(name), 64 if small else SIDE
    measured = measure_device_peaks(name, side)
    measured["bytes"] = _bandwidth(name, 2**20 if small else COPIED)
    return {
        "name": key["device"],
        "capability": f"{card.major}.{card.minor}" if card else "none",
        "memory_gib": card.total_memory / 2**30 if card else 0.0,
        "driver": key["driver"] or "none",
        "torch": key["torch"],
        "triton": key["triton"],
        "cuda": key["cuda"],
        "python": platform.python_version(),
        "missing": [
            f"{item['name']}{item['needs']}" for item in installation.packages(extra=None) if not item["ok"]
        ],
        "side": side,
        "measured": measured,
        "sheet": asdict(sheet) if sheet else None,
    }


def _bandwidth(device: str, size: int) -> float:
    """Bytes per second of a copy, read and written."""
    clock, _ = clock_for(1, device)
    source = torch.zeros(size // 4, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    best = 0.0
    for _ in range(5):
        start = clock()
        target.copy_(source)
        best = max(best, 2.0 * size / max(clock() - start, 1e-9))
    return best


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(facts(sys.argv[1], small="--small" in sys.argv), indent=2))
