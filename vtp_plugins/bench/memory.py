"""Peak memory of one call, by counting every allocation of the C heap in a child process.

The child loads `data/allocations.c` before everything else, so torch, numpy, other libraries and our own
kernels are all counted, wherever they allocate. It calls the variant once to warm up and counts the second
call: its working memory and its result. The resident set says less, as a heap reuses what it has.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from vtp_plugins.bench.case import CASES, BenchCase, CaseError, load
from vtp_plugins.bench.config import BenchOptions

SOURCE = Path(__file__).parent / "data/allocations.c"


def peak_bytes(
    case: BenchCase, variant: str, options: BenchOptions, packages: Sequence[str] = (CASES,)
) -> int:
    """Most bytes that the C heap held during a warm call of a variant, beyond those held before it.

    Args:
        case: The child builds it again.
        variant: One of its variants.
        options: What the case was built with.
        packages: Where the case is looked for.

    Raises:
        CaseError: There is no C compiler, the system has no glibc, or the child failed.
    """
    order = {
        "case": case.name,
        "shape": case.shape,
        "variant": variant,
        "options": asdict(options),
        "packages": list(packages),
    }
    return counted([sys.executable, "-m", __name__, json.dumps(order)], f"{case.name}: {variant}")


def counted(command: Sequence[str], what: str) -> int:
    """The number that a child prints last, which runs with every allocation counted (`peak_of`).

    Args:
        command: The child.
        what: What is counted, for the message.

    Raises:
        CaseError: There is no C compiler, the system has no glibc, or the child failed.
    """
    with tempfile.TemporaryDirectory(prefix="vtp-bench-") as folder:
        environment = {**os.environ, "LD_PRELOAD": str(_build(Path(folder)))}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise CaseError(f"{what}: counting the memory failed: {last}")
    return int(done.stdout.split()[-1])


def _build(folder: Path) -> Path:
    compiler = next(filter(None, (shutil.which(name) for name in ("cc", "gcc", "clang"))), None)
    if compiler is None or not sys.platform.startswith("linux"):
        raise CaseError("--memory needs a C compiler on a Linux system with glibc")
    library = folder / "liballocations.so"
    command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(library), str(SOURCE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CaseError(f"--memory: {SOURCE.name} does not compile: {done.stderr.strip().splitlines()[0]}")
    return library


def peak_of(call: Callable[[], object]) -> int:
    """In the child: the peak of the second call, in bytes beyond those held before it.

    Raises:
        RuntimeError: The counter was not loaded before the process started.
    """
    process = ctypes.CDLL(None)
    if not hasattr(process, "allocations_start"):
        raise RuntimeError("the allocation counter is not loaded")
    for name in ("allocations_start", "allocations_peak"):
        getattr(process, name).restype = ctypes.c_longlong
    call()
    before = process.allocations_start()
    kept = call()
    peak = int(process.allocations_peak() - before)
    del kept
    return peak


def _child(order: str) -> None:
    import torch

    asked = json.loads(order)
    options = BenchOptions(**asked["options"])
    torch.set_num_threads(options.threads)
    case = load(asked["case"], asked["shape"], options, asked["packages"])
    print(peak_of(case.variants[asked["variant"]]))


if __name__ == "__main__":
    _child(sys.argv[1])
