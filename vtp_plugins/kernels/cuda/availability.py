"""Whether the CUDA C++ kernels can run on this machine."""

from __future__ import annotations

from vtp_plugins.kernels import gpu
from vtp_plugins.kernels.native.loading import why_missing

MODULE = "_C_cuda"


def obstacle() -> str | None:
    """Reason why they can't run on this machine, or None; `gpu.outdated` checks one GPU."""
    return gpu.missing() or why_missing(MODULE)
