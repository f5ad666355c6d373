"""Compiles one case without a GPU and reads registers, spills, shared memory and instructions."""

from __future__ import annotations

import importlib
import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import triton
import triton.backends.nvidia
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from vtp_plugins.kernels.triton.gate.case import GateCase

_MATRIX = ("HMMA", "HGMMA", "UTCHMMA")
_TOOLS = Path(triton.backends.nvidia.__file__).parent / "bin"


@dataclass(frozen=True)
class Resources:
    """Resources of a compiled kernel.

    Attributes:
        registers: Registers of a thread.
        stack: Bytes of a thread's stack; the compiler keeps there what it has no register for.
        spills: Instructions that write to or read from the stack.
        shared: Bytes of shared memory of a program.
        matrix: Instructions of tensor cores by name, as the disassembler calls them.
        fused64: Fused multiply-adds in float64 that the kernel itself asks for.
    """

    registers: int
    stack: int
    spills: int
    shared: int
    matrix: Mapping[str, int]
    fused64: int

    def as_row(self) -> dict[str, Any]:
        """For the table."""
        return asdict(self)


def compile_case(case: GateCase) -> Resources:
    """Compiles `case` for its architecture with the assembler in triton's wheel."""
    kernel = getattr(importlib.import_module(f"vtp_plugins.kernels.triton.device.{case.module}"), case.kernel)
    signature, aligned = {}, {}
    for position, name in enumerate(kernel.arg_names):
        signature[name] = "constexpr" if name in case.constants else case.types.get(name, "i32")
        if name not in case.constants and name not in case.unaligned:
            aligned[(position,)] = [["tt.divisibility", 16]]
    source = ASTSource(fn=kernel, signature=signature, constexprs=dict(case.constants), attrs=aligned)
    options = {"num_warps": case.warps, "num_stages": case.stages, "enable_fp_fusion": case.fusion}
    with tempfile.TemporaryDirectory() as folder, triton.knobs.cache.scope():
        triton.knobs.cache.dir = folder
        built = triton.compile(source, target=GPUTarget("cuda", case.architecture, 32), options=options)
        return _resources(built, Path(folder) / "kernel.cubin")


def _resources(built: Any, file: Path) -> Resources:
    file.write_bytes(built.asm["cubin"])
    usage = _output("cuobjdump", "--dump-resource-usage", file)
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert found is not None, f"cuobjdump printed no resources: {usage[-200:]}"
    code = _output("nvdisasm", file)
    return Resources(
        registers=int(found[1]),
        stack=int(found[2]),
        spills=len(re.findall(r"\b(?:STL|LDL)\b", code)),
        shared=built.metadata.shared,
        matrix={name: count for name in _MATRIX if (count := len(re.findall(rf"\b{name}\b", code)))},
        fused64=built.asm["ptx"].count("fma.rn.f64"),
    )


def _output(tool: str, *arguments: str | Path) -> str:
    return subprocess.run([_TOOLS / tool, *arguments], capture_output=True, text=True, check=True).stdout
