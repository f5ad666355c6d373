"""Builds the extension modules and records the result of each, for `setup.py` and `vtp kernels`."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import os
import runpy
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

from vtp_plugins.kernels.native import toolkit as cuda
from vtp_plugins.kernels.native.compiler import (
    BuildFailed,
    Compilation,
    compile_all,
    cxx,
    jobs,
    link,
    version,
)
from vtp_plugins.kernels.native.sources import CXX_FLAGS, NVCC_FLAGS, PACKAGE, csrc, isa_flags, sources

RECORD = "native_build.json"
"""Name of the record beside the modules: module -> None if it was built, else the reason why not."""


def obstacle(module: str) -> str | None:
    """Why a module can't be built here, or None."""
    if not sources(module):
        return f"csrc/{module.removeprefix('_C_')} has no sources"
    if cxx() is None:
        return "no C++ compiler on PATH"
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file():
        return "Python's headers are not installed (Python.h)"
    torch = torch_folder()
    if torch is None:
        return "torch is not there while building: use pip install --no-build-isolation"
    return _cuda_obstacle(torch) if module == "_C_cuda" else None


def build(module: str, output: Path, objects: Path, gpus: str = "") -> None:
    """Compiles and links one module.

    Args:
        module: One of `MODULES`.
        output: The shared library to write.
        objects: Folder of intermediate files; what is fresh there is not compiled again.
        gpus: Architectures as in TORCH_CUDA_ARCH_LIST, which comes first; empty: the usual ones.

    Raises:
        BuildFailed: There is an obstacle, or a compiler refused.
    """
    if reason := obstacle(module):
        raise BuildFailed(reason)
    compiler, torch, kit = cxx(), torch_folder(), cuda.find() if module == "_C_cuda" else None
    assert compiler is not None and torch is not None and not isinstance(kit, str)
    include = ["-I", str(csrc() / module.removeprefix("_C_"))]
    for system in (torch / "include", sysconfig.get_paths()["include"], *([kit.include] if kit else [])):
        include += ["-isystem", str(system)]
    nvcc = [] if kit is None else _nvcc(kit, compiler[0], gpus)
    made_by = version(compiler) + ("" if kit is None else version([str(kit.nvcc)]))
    # Errors name files by __FILE__: those of csrc/ and torch/, not the folders of this machine.
    renamed = [f"-ffile-prefix-map={folder}/=" for folder in (csrc().parent, torch.parent)]
    compilations = []
    for path in sources(module):
        flags = nvcc if path.suffix == ".cu" else [*compiler, *CXX_FLAGS, *isa_flags(path)]
        maps = [f"-Xcompiler={flag}" for flag in renamed] if path.suffix == ".cu" else renamed
        command = [*flags, *maps, *include, str(path)]
        # System headers, torch's among them, are not followed: each torch has objects of its own.
        name = f"torch-{torch_version(torch)}/{path.relative_to(csrc()).as_posix().replace('/', '.')}.o"
        compilations.append(Compilation(tuple(command), objects / name, made_by))
    compile_all(compilations, jobs())
    shared = ["-shared"] if sys.platform != "darwin" else ["-bundle", "-undefined", "dynamic_lookup"]
    libraries = [f"-L{torch / 'lib'}", "-ltorch_cpu", "-lc10"]
    if kit is not None:
        libraries += ["-ltorch_cuda", str(kit.runtime)]
    link([*compiler, *shared, *(str(each.output) for each in compilations), *libraries], output)


def torch_folder() -> Path | None:
    """The folder of the torch to build for, which is not imported."""
    found = importlib.util.find_spec("torch")
    return Path(found.origin).parent if found is not None and found.origin is not None else None


def torch_version(torch: Path) -> str:
    """Version of the torch in a folder with its build tag, such as ``"2.11.0+cu130"``."""
    return str(runpy.run_path(str(torch / "version.py"))["__version__"])


def library(module: str, folder: Path = PACKAGE) -> Path:
    """Path of a module's shared library for this Python."""
    suffixes = importlib.machinery.EXTENSION_SUFFIXES
    return folder / (module + next((end for end in suffixes if ".abi3" in end), suffixes[0]))


def record(folder: Path, reasons: Mapping[str, str | None]) -> None:
    """Adds the results of modules to a folder's record: None, or the reason why one was not built.

    A module with a reason loses its library: an earlier build would be of other sources.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for module in (module for module, reason in reasons.items() if reason is not None):
        library(module, folder).unlink(missing_ok=True)
    (folder / RECORD).write_text(json.dumps({**recorded(folder), **reasons}, indent=2) + "\n")


def recorded(folder: Path = PACKAGE) -> dict[str, str | None]:
    """The record of a folder; empty without a build."""
    try:
        rows = json.loads((folder / RECORD).read_text())
    except (OSError, ValueError):
        return {}
    return rows if isinstance(rows, dict) else {}


def _nvcc(kit: cuda.Toolkit, compiler: str, gpus: str) -> list[str]:
    host = ["-ccbin", compiler] if os.environ.get("CXX") else []
    try:
        architectures = cuda.architecture_flags(kit, os.environ.get("TORCH_CUDA_ARCH_LIST") or gpus)
    except ValueError as error:
        raise BuildFailed(str(error)) from error
    return [str(kit.nvcc), *host, *NVCC_FLAGS, *architectures]


def _cuda_obstacle(torch: Path) -> str | None:
    needed = runpy.run_path(str(torch / "version.py")).get("cuda")
    if needed is None:
        return "the installed torch is built without CUDA"
    kit = cuda.find()
    if isinstance(kit, str):
        return kit
    if kit.version.partition(".")[0] != needed.partition(".")[0]:
        return f"{kit.root} is CUDA {kit.version}, the installed torch is built for {needed}"
    return None
