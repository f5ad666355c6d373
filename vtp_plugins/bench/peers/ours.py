"""The implementations of our operators that a GPU can run, each by its name."""

from __future__ import annotations

from typing import Any

from vtp_core.ops.installed import installed


def usable(kind: Any, device: str) -> list[Any]:
    """Installed implementations made for the type of a device that can run on this machine.

    Args:
        kind: The operator's kernel class, such as `SearchKernel`.
        device: As torch names it, such as ``"cuda:0"``.
    """
    wanted = device.partition(":")[0]
    return [kernel for kernel in installed(kind) if kernel.device == wanted and kernel.missing() is None]
