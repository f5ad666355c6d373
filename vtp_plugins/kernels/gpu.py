"""Which GPUs of this machine can run the kernels for NVIDIA's."""

from __future__ import annotations

import torch

OLDEST = (8, 0)
"""Compute capability from which on tensor cores multiply bfloat16 and copies are asynchronous."""


def _capabilities() -> tuple[tuple[int, int], ...]:
    if not torch.cuda.is_available() or torch.version.hip is not None:
        return ()
    return tuple(torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count()))


CAPABILITIES = _capabilities()
"""Of each GPU. Read once: torch.compile follows a constant, and no driver is asked on every call."""


def missing() -> str | None:
    """Why no GPU of this machine can, or None."""
    if not torch.cuda.is_available():
        return "needs a CUDA GPU"
    if torch.version.hip is not None:
        return "needs a GPU of NVIDIA"
    reasons = [outdated(index) for index in range(len(CAPABILITIES))]
    return reasons[0] if None not in reasons else None


def outdated(index: int | None) -> str | None:
    """Why one GPU can't, or None.

    Args:
        index: Of the device of a case's tensors; None: not known, so nothing is against it.
    """
    if index is None or index >= len(CAPABILITIES) or CAPABILITIES[index] >= OLDEST:
        return None
    needed, found = (".".join(map(str, version)) for version in (OLDEST, CAPABILITIES[index]))
    return f"needs compute capability {needed}, cuda:{index} has {found}"


def unless_measured(case: object) -> bool:
    """Whether ``auto`` takes a kernel for GPUs without a ranking: never (`vtp kernels tune` measures one)."""
    return False
