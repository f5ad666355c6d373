"""Builds the extension modules and records what was built, or why not; for `setup.py` and `vtp kernels`."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import platform
import sys
import sysconfig
from pathlib import Path

from vtp_plugins.kernels.native.compiler import Step, compile_all, cxx, jobs, link
from vtp_plugins.kernels.native.sources import CXX_FLAGS, PACKAGE, csrc, isa_flags, sources

RECORD = "native_build.json"
"""Name of the record beside the modules: module -> {"built": bool, "reason": str | None}."""


def obstacle(module: str) -> str | None:
    """Why a module can't be built here, or None."""
    if not sources(module):
        return f"{csrc().name}/{module.removeprefix('_C_')} has no sources"
    if cxx() is None:
        return "no C++ compiler on PATH"
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file():
        return "Python's headers are not installed (Python.h)"
    if importlib.util.find_spec("torch") is None:
        return "torch is not there while building: use pip install --no-build-isolation"
    return None


def build(module: str, output: Path, objects: Path) -> None:
    """Compiles and links one module.

    Args:
        module: One of `MODULES`.
        output: The shared library to write.
        objects: Folder of intermediate files; what is fresh there is not compiled again.

    Raises:
        BuildFailed: A compiler refused.
    """
    torch = importlib.util.find_spec("torch")
    compiler = cxx()
    if compiler is None or torch is None or torch.origin is None:
        raise RuntimeError(f"{module}: {obstacle(module)}")
    root = Path(torch.origin).parent
    include = (str(csrc() / "cpu"), str(root / "include"), sysconfig.get_paths()["include"])
    flags = (*CXX_FLAGS, *(f"-isystem{path}" if index else f"-I{path}" for index, path in enumerate(include)))
    steps = [
        Step(
            (*compiler, *flags, *isa_flags(path), str(path)),
            objects / module / f"{path.relative_to(csrc()).as_posix().replace('/', '.')}.o",
        )
        for path in sources(module)
    ]
    compile_all(steps, jobs())
    shared = ("-shared",) if sys.platform != "darwin" else ("-bundle", "-undefined", "dynamic_lookup")
    libraries = (f"-L{root / 'lib'}", "-ltorch_cpu", "-lc10")
    link([*compiler, *shared, *(str(step.output) for step in steps), *libraries], output)


def record(folder: Path, results: dict[str, str | None]) -> None:
    """Writes what became of each module: None, or the reason why it was not built."""
    rows = {module: {"built": reason is None, "reason": reason} for module, reason in results.items()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECORD).write_text(
        json.dumps({"machine": platform.machine(), "modules": rows}, indent=2) + "\n"
    )


def library(module: str, folder: Path = PACKAGE) -> Path:
    """Where the shared library of a module belongs for this Python."""
    suffixes = importlib.machinery.EXTENSION_SUFFIXES
    return folder / (module + next((end for end in suffixes if ".abi3" in end), suffixes[0]))
