"""Options of `vtp bench` and `python -m benchmarks` for every case. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """How cases are built and timed.

    Attributes:
        precision: Dtype of the inputs.
        device: ``"cpu"`` or a CUDA device.
        threads: Threads that a variant may use.
        peers: Whether to build the variants of other libraries too.
    """

    precision: Precision = "float32"
    device: str = "cpu"
    threads: int = 1
    peers: bool = True
