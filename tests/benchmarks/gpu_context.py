"""A device and a context for the tests of `make gpu`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from benchmarks.gpu import installed
from benchmarks.gpu.context import Context

H200 = {
    "name": "NVIDIA H200", "capability": "9.0", "memory_gib": 139.8, "driver": "580.159.04",
    "torch": "2.14.1", "triton": "3.8.0", "cuda": "13.0", "python": "3.12.3", "side": 8192, "missing": [],
    "measured": {"bfloat16": 780e12, "float32": 50e12, "bytes": 4.3e12},
    "sheet": {"tensor": 989e12, "tf32": 495e12, "bytes": 4.8e12, "multiprocessors": 132, "clock": 1.83e9},
}  # fmt: skip


def context(folder: Path, seconds: float = 60.0, **changes: Any) -> Context:
    values = {"device": "cpu", "folder": folder, "deadline": time.monotonic() + seconds, "small": True}
    return Context(**(values | {"environment": installed.variables(folder)} | changes))
