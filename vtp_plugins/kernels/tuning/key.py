"""Key of measured times: the device, its driver, the versions and the sources of the kernels."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from importlib import metadata
from pathlib import Path

import torch

from vtp_core.installation import machine
from vtp_plugins.kernels.native.build import library
from vtp_plugins.kernels.native.sources import PACKAGE, csrc

DRIVER = Path("/proc/driver/nvidia/version")


def key_of(device: torch.device) -> dict[str, str]:
    """The key of a device: equal keys mean that the same code runs on the same kind of device."""
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else str(machine()["processor"]),
        "driver": _driver() if cuda else "",
        "torch": str(torch.__version__),
        "triton": _version("triton"),
        "cuda": str(torch.version.cuda),
        "sources": hash_sources(),
        "cuda_module": "built" if library("_C_cuda").is_file() else "not built",
    }


@cache  # they don't change while a process runs
def hash_sources() -> str:
    """sha256 of the sources of all kernels of this package, names and contents."""
    found = hashlib.sha256()
    folders = [(PACKAGE, name) for name in ("cpu", "cuda", "triton")]
    folders += [(csrc(), name) for name in ("cpu", "cuda")]
    for root, name in folders:
        for path in sorted((root / name).rglob("*")):
            if path.suffix in (".py", ".h", ".cpp", ".cu", ".cuh"):
                text = path.read_bytes()
                found.update(f"{path.relative_to(root).as_posix()} {len(text)}\n".encode() + text)
    return found.hexdigest()


def _driver() -> str:
    """Version of NVIDIA's driver, or of the CUDA interface that it offers where its own can't be read."""
    try:
        match = re.search(r"NVRM version:.*?\s(\d+(\.\d+)+)", DRIVER.read_text())
    except OSError:
        match = None
    interface = getattr(torch._C, "_cuda_getDriverVersion", None)
    return match[1] if match else f"CUDA {interface() if interface else 'unknown'}"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
