"""Type checks of operator arguments, done before their shapes are checked."""

from __future__ import annotations

from numbers import Integral, Real

import torch
from torch import Tensor

from vtp_core.ops.describe import described

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
"""Dtypes of vectors, codes, queries, keys, values and their weights."""


def require_tensor(operator: str, name: str, value: object) -> None:
    """Raises unless the argument is a dense tensor, neither sparse nor nested.

    Args:
        operator: Name of the function that was called.
        name: Name of its argument.
        value: The argument.

    Raises:
        TypeError: Names the operator, the argument and its type.
    """
    if not isinstance(value, Tensor) or value.is_nested or value.layout is not torch.strided:
        raise TypeError(f"{operator}: {name} must be a dense torch.Tensor, got {described(value)}")


def require_kind(operator: str, name: str, value: object, kind: type, wanted: str) -> None:
    """Raises unless the argument is of a type.

    Args:
        operator: Name of the function that was called.
        name: Name of its argument.
        value: The argument.
        kind: Expected type. `numbers.Real` and `numbers.Integral` include torch's symbolic numbers.
        wanted: The expected value in words, for the message.

    Raises:
        TypeError: Names the argument, the expected and the given type.
    """
    if kind in (Real, Integral) and isinstance(value, (torch.SymInt, torch.SymFloat)):
        return
    if not isinstance(value, kind):
        raise TypeError(f"{operator}: {name} must be {wanted}, got {described(value)}")
