"""Looks for accesses out of bounds in the smallest case of every kernel."""

from __future__ import annotations

import re
import shutil
import sys

from benchmarks.gpu.context import Context, PartFailed
from vtp_plugins.kernels.native import toolkit

SUMMARY = "compute-sanitizer memcheck on the smallest case of every kernel"
LIMIT = 70.0
KEPT = 30.0


def run(context: Context) -> list[str]:
    """What ran, and that nothing was found.

    Raises:
        PartFailed: There is no compute-sanitizer, it can't work here, or it found something.
    """
    command = [
        find(), "--tool", "memcheck", "--error-exitcode", "9", "--print-limit", "20",
        sys.executable, "-m", "benchmarks.gpu.smallest", context.device,
    ]  # fmt: skip
    # Each tensor has memory of its own: within one block of an allocator nothing is out of bounds.
    text = context.run(command, {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"})
    summary = re.search(r"ERROR SUMMARY: (\d+) errors?", text)
    if summary is None or "all ran" not in text:
        raise PartFailed(f"compute-sanitizer said nothing about errors; see {context.log}")
    if summary[1] != "0":
        raise PartFailed(f"compute-sanitizer found {summary[1]} errors; see {context.log}")
    ran = [line for line in text.splitlines() if line.startswith("ran ")]
    return ["No errors. What ran under compute-sanitizer:", "", *(f"- {line[4:]}" for line in ran)]


def find() -> str:
    """The program compute-sanitizer.

    Raises:
        PartFailed: There is none on PATH or beside nvcc.
    """
    found = toolkit.find()
    beside = None if isinstance(found, str) else found.root / "bin/compute-sanitizer"
    program = shutil.which("compute-sanitizer") or (str(beside) if beside and beside.is_file() else None)
    if program is None:
        raise PartFailed("no compute-sanitizer on PATH or in the CUDA toolkit; CUDA's packages have it")
    return program
