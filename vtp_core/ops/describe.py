"""Descriptions of arguments for error messages."""

from __future__ import annotations

import torch
from torch import Tensor


def described(x: object) -> str:
    """Shape, dtype and device of a tensor, ``(4, 8) float32 on cpu``; of anything else its type."""
    if not isinstance(x, Tensor):
        kind, shape = type(x), getattr(x, "shape", None)
        name = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
        return f"{name} {shape}" if isinstance(shape, tuple) else name
    if x.is_nested:
        return "a nested tensor"
    layout = "" if x.layout is torch.strided else f" ({str(x.layout).removeprefix('torch.')})"
    return f"{tuple(x.shape)} {str(x.dtype).removeprefix('torch.')} on {x.device}{layout}"
