"""The CUDA toolkit that fits the installed torch, and the GPUs to compile for."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# 8.0 also runs on 8.6 and 8.9; newer GPUs than 9.0 compile its PTX when the module is first loaded. Each
# further one would take 15 s of an installation.
ARCHITECTURES = ("8.0", "9.0")


@dataclass(frozen=True)
class Toolkit:
    """A CUDA toolkit.

    Attributes:
        root: Its folder, with `bin/nvcc`.
        version: Of nvcc, such as ``"13.0"``.
        known: Architectures that nvcc compiles for, such as ``"8.0"``.
    """

    root: Path
    version: str
    known: tuple[str, ...]

    @property
    def nvcc(self) -> Path:
        """The compiler itself, not a wrapper."""
        return self.root / "bin/nvcc"

    @property
    def include(self) -> Path:
        """Folder of `cuda_runtime.h`."""
        return next(iter(_headers(self.root)))

    @property
    def runtime(self) -> Path:
        """The shared runtime library, which torch has loaded too."""
        return _runtimes(self.root)[0]


def candidates() -> Iterator[Path]:
    """Folders that may be a toolkit, in order of preference.

    An `nvcc` on PATH is often a script or a link elsewhere, so it is asked for its own folder.
    """
    yield from (Path(os.environ[name]) for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name))
    if nvcc := shutil.which("nvcc"):
        if top := re.search(r"^#\$ TOP=(.*)$", _output(nvcc, "--dryrun", "-x", "cu", "-c", os.devnull), re.M):
            yield Path(top[1]).resolve()
        yield Path(nvcc).resolve().parents[1]
    yield Path("/usr/local/cuda")


def find() -> Toolkit | str:
    """The first complete toolkit, or why there is none."""
    incomplete = []
    for root in dict.fromkeys(candidates()):
        if not os.access(root / "bin/nvcc", os.X_OK) or not (_headers(root) and _runtimes(root)):
            incomplete.append(str(root))
            continue
        version = re.search(r"release (\d+\.\d+)", _output(str(root / "bin/nvcc"), "--version"))
        codes = re.findall(r"sm_(\d+)(\d)\b", _output(str(root / "bin/nvcc"), "--list-gpu-code"))
        if version and codes:
            return Toolkit(root, version[1], tuple(f"{major}.{minor}" for major, minor in codes))
        incomplete.append(str(root))
    tried = ", ".join(name for name in incomplete if Path(name).is_dir())
    return f"no CUDA toolkit with nvcc, cuda_runtime.h and libcudart.so{f' in {tried}' if tried else ''}"


def architecture_flags(toolkit: Toolkit, asked: str) -> list[str]:
    """Nvcc's flags for the GPUs to compile for.

    Args:
        toolkit: The toolkit that compiles.
        asked: As torch's TORCH_CUDA_ARCH_LIST: versions with an optional ``a``, ``f`` or ``+PTX``, separated
            by spaces or semicolons; empty: those of `ARCHITECTURES` that the toolkit knows.

    Raises:
        ValueError: An item is no version.
    """
    usual = [one for one in ARCHITECTURES if one in toolkit.known]
    items = asked.replace(";", " ").split() or [*usual[:-1], *(f"{one}+PTX" for one in usual[-1:])]
    flags = []
    for item in items:
        found = re.fullmatch(r"(\d+)\.(\d+)([af]?)(\+PTX)?", item)
        if found is None:
            raise ValueError(f'TORCH_CUDA_ARCH_LIST: "{item}" is no architecture such as 8.0 or 9.0+PTX')
        number = f"{found[1]}{found[2]}{found[3]}"
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if found[4]:
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


def _headers(root: Path) -> list[Path]:
    places = (root / "include", *root.glob("targets/*/include"))
    return [place for place in places if (place / "cuda_runtime.h").is_file()]


def _runtimes(root: Path) -> list[Path]:
    places = (root / "lib64", root / "lib", *root.glob("targets/*/lib"))
    return [path for place in places for path in sorted(place.glob("libcudart.so*"))]


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout + done.stderr
