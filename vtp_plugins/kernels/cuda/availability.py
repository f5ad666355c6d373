"""Why the CUDA C++ kernels can't run here, if they can't."""

from __future__ import annotations

import torch

from vtp_plugins.kernels.native.loading import why_missing

MODULE = "_C_cuda"

OLDEST = (8, 0)
"""Compute capability from which on tensor cores multiply bfloat16 and copies are asynchronous."""


def obstacle() -> str | None:
    """What is missing on this machine, or None."""
    if not torch.cuda.is_available():
        return "needs a CUDA GPU"
    if torch.version.hip is not None:
        return "needs a GPU of NVIDIA"
    capability = torch.cuda.get_device_capability()
    if capability < OLDEST:
        return (
            f"needs compute capability {OLDEST[0]}.{OLDEST[1]}, this GPU has {capability[0]}.{capability[1]}"
        )
    return why_missing(MODULE)
