"""What the gate compiles: a kernel, an architecture, a setting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vtp_plugins.kernels.triton.configuration import Architecture

POINTERS: Mapping[str, str] = {
    "float64": "fp64",
    "float32": "fp32",
    "bfloat16": "bf16",
    "float16": "fp16",
}
"""What Triton calls the dtypes that pointers point to."""


@dataclass(frozen=True, kw_only=True)
class GateCase:
    """One kernel to compile.

    Attributes:
        name: Unique; the key of the table.
        module: Module of `device` that has the kernel.
        kernel: Its function.
        architecture: What it is compiled for.
        constants: Compile-time arguments.
        types: Type of each argument that isn't an int32: pointers ``"*fp32"``, numbers ``"fp32"``.
        unaligned: Arguments that a run doesn't pass as multiples of 16 (bytes for pointers).
        warps: Warps of a program.
        stages: Tiles in flight.
        fusion: Whether a product and a sum may become one instruction.
        tensor_cores: Whether it has matrix products that belong there.
    """

    name: str
    module: str
    kernel: str
    architecture: Architecture
    constants: Mapping[str, Any]
    types: Mapping[str, str]
    unaligned: frozenset[str] = field(default_factory=frozenset)
    warps: int
    stages: int
    fusion: bool = True
    tensor_cores: bool = False
