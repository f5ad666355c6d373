"""Which GPUs of this machine can run the kernels for NVIDIA GPUs."""

from __future__ import annotations

import torch

OLDEST = (8, 0)
"""Lowest compute capability with bfloat16 tensor cores and asynchronous copies."""


def _capabilities() -> tuple[tuple[int, int], ...]:
    if not torch.cuda.is_available() or torch.version.hip is not None:
        return ()
    return tuple(torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count()))


CAPABILITIES = _capabilities()
"""Compute capability of each GPU, read once: a constant for torch.compile, without driver calls."""


def missing() -> str | None:
    """Reason why no GPU of this machine can run them, or None."""
    if not torch.cuda.is_available():
        return "needs a CUDA GPU"
    if torch.version.hip is not None:
        return "needs a GPU of NVIDIA"
    reasons = [outdated(index) for index in range(len(CAPABILITIES))]
    return reasons[0] if None not in reasons else None


def outdated(index: int | None) -> str | None:
    """Reason why one GPU can't run them, or None.

    Args:
        index: Device index of a case's tensors; None, if unknown, passes.
    """
    if index is None or index >= len(CAPABILITIES) or CAPABILITIES[index] >= OLDEST:
        return None
    needed, found = (".".join(map(str, version)) for version in (OLDEST, CAPABILITIES[index]))
    return f"needs compute capability {needed}, cuda:{index} has {found}"


def unless_measured(case: object) -> bool:
    """Whether ``auto`` takes a kernel for GPUs without a ranking: never (`vtp kernels tune` measures one)."""
    return False
