"""Tensors in error messages."""

from __future__ import annotations

from torch import Tensor


def described(x: Tensor) -> str:
    """Shape, dtype and device of a tensor: ``(4, 8) float32 on cpu``."""
    return f"{tuple(x.shape)} {str(x.dtype).removeprefix('torch.')} on {x.device}"
