"""Sources of the extension modules, with the compiler flags of each."""

from __future__ import annotations

import platform
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
"""Folder of `vtp_plugins.kernels`, where the modules go."""

MODULES = ("_C_cpu", "_C_cuda")

# Always the same rounding: products and sums are fused where the source says so, never by the compiler.
# The limited API of Python 3.11 and the stable ABI of torch 2.11 make one build serve all later versions.
CXX_FLAGS = (
    "-O3",
    "-std=c++20",
    "-fPIC",
    "-fvisibility=hidden",
    "-ffp-contract=off",
    "-Wall",
    "-DPy_LIMITED_API=0x030B0000",
    "-DTORCH_TARGET_VERSION=0x020b000000000000",
)

NVCC_FLAGS = (
    "-O3",
    "-std=c++20",
    "--expt-relaxed-constexpr",
    "-Xcompiler=-fPIC,-fvisibility=hidden",
    "-DPy_LIMITED_API=0x030B0000",
    "-DTORCH_TARGET_VERSION=0x020b000000000000",
    "-DUSE_CUDA",
)

_AVX2 = ("-mavx2", "-mfma", "-mf16c")
_AVX512 = (*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq")
ISA_FLAGS = {"_avx2": _AVX2, "_avx512": _AVX512, "_avx512bf16": (*_AVX512, "-mavx512bf16")}
"""End of a file's stem -> flags of that instruction set; every other file is for any CPU."""


def csrc() -> Path:
    """The folder of C++ sources: that of the repository, or the copy that a wheel carries."""
    repository = PACKAGE.parents[1] / "csrc"
    return repository if repository.is_dir() else PACKAGE / "csrc"


def sources(module: str, machine: str = platform.machine()) -> list[Path]:
    """The files of a module for a processor family.

    Args:
        module: One of `MODULES`.
        machine: As `platform.machine()` names it; files of an instruction set are for x86-64 alone.
    """
    folder = csrc() / module.removeprefix("_C_")
    found = sorted(path for suffix in ("*.cpp", "*.cu") for path in folder.rglob(suffix))
    x86 = machine.lower() in ("x86_64", "amd64")
    return [path for path in found if x86 or not isa_flags(path)]


def isa_flags(source: Path) -> tuple[str, ...]:
    """The flags of a source's instruction set, given by the end of its name."""
    return next((flags for end, flags in ISA_FLAGS.items() if source.stem.endswith(end)), ())
