"""Why the CUDA C++ kernels can't run here, if they can't."""

from __future__ import annotations

from vtp_plugins.kernels import gpu
from vtp_plugins.kernels.native.loading import why_missing

MODULE = "_C_cuda"


def obstacle() -> str | None:
    """What is missing on this machine, or None; `gpu.outdated` says it of one of its GPUs."""
    return gpu.missing() or why_missing(MODULE)
