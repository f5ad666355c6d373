"""Whether the Triton kernels can run on this machine."""

from __future__ import annotations

import importlib.util
import os
from functools import cache

from vtp_plugins.kernels import gpu


@cache
def obstacle() -> str | None:
    """Reason why they can't run on this machine, or None, found once; `gpu.outdated` checks one GPU."""
    if importlib.util.find_spec("triton") is None:
        return "needs the package triton"
    if "TRITON_INTERPRET" in os.environ and interpreted():
        return None
    return gpu.missing()


def interpreted() -> bool:
    """Whether Triton runs its kernels on the CPU (``TRITON_INTERPRET=1``), as tests do."""
    import triton

    return bool(triton.knobs.runtime.interpret)
