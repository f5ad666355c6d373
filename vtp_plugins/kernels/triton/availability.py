"""Why the Triton kernels can't run here, if they can't."""

from __future__ import annotations

import importlib.util
import os
from functools import cache

import torch

OLDEST = (8, 0)
"""Compute capability from which on the kernels are built."""


@cache
def obstacle() -> str | None:
    """What is missing on this machine, or None; looked up once."""
    if importlib.util.find_spec("triton") is None:
        return "needs the package triton"
    if "TRITON_INTERPRET" in os.environ and interpreted():
        return None
    if not torch.cuda.is_available():
        return "needs a CUDA GPU"
    if torch.version.hip is not None:
        return "needs a GPU of NVIDIA"
    capability = torch.cuda.get_device_capability()
    if capability < OLDEST:
        needed, found = (".".join(map(str, version)) for version in (OLDEST, capability))
        return f"needs compute capability {needed}, this GPU has {found}"
    return None


def interpreted() -> bool:
    """Whether Triton runs its kernels on the CPU (``TRITON_INTERPRET=1``), as tests do."""
    import triton

    return bool(triton.knobs.runtime.interpret)
