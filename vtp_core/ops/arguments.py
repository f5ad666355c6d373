"""What operators demand of any argument before they look at shapes."""

from __future__ import annotations

from numbers import Integral, Real

import torch
from torch import Tensor

from vtp_core.ops.describe import described

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
"""Dtypes of vectors, codes, queries, keys, values and their weights."""


def require_tensor(operator: str, name: str, value: object) -> None:
    """Refuses what is no dense tensor: a list, an array of NumPy, a sparse or nested tensor.

    Args:
        operator: Name of the function that was called.
        name: Name of its argument.
        value: The argument.

    Raises:
        TypeError: Names all three.
    """
    if not isinstance(value, Tensor) or value.is_nested or value.layout is not torch.strided:
        raise TypeError(f"{operator}: {name} must be a dense torch.Tensor, got {described(value)}")


def require_kind(operator: str, name: str, value: object, kind: type, wanted: str) -> None:
    """Refuses what is not of a type.

    Args:
        operator: Name of the function that was called.
        name: Name of its argument.
        value: The argument.
        kind: Its type. `numbers.Real` and `numbers.Integral` take torch's symbolic numbers too.
        wanted: What to hand over, in words.

    Raises:
        TypeError: Names the argument, what is wanted and what was given.
    """
    if kind in (Real, Integral) and isinstance(value, (torch.SymInt, torch.SymFloat)):
        return
    if not isinstance(value, kind):
        raise TypeError(f"{operator}: {name} must be {wanted}, got {described(value)}")
