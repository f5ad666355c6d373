"""Weights in fewer bytes: matrices as 8-bit integers with a scale a row, or every weight as bfloat16.

A matrix ``name`` is then an int8 tensor, beside ``name:scale`` (rows,) float32: row r is the integers times
scale r. The scale is the row's largest magnitude over 127, so no weight moves by more than half a scale. What
is read back is exactly what is stored, in float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from vtp_core.errors import UsageError

Storage = Literal["full", "bfloat16", "int8"]

SCALE = ":scale"
"""Ends the name of the scales; no name in a state dict has a colon."""
LEAST = 1024
"""Elements from which a matrix is worth scales of its own."""


def compress(tensors: Mapping[str, Tensor], storage: Storage) -> dict[str, Tensor]:
    """What a file holds for these weights.

    Args:
        tensors: Name -> tensor on any device.
        storage: ``"full"`` keeps all as they are. ``"bfloat16"`` rounds all floating point numbers.
            ``"int8"`` rounds matrices (two or more dimensions, at least 1024 elements, rows along the first
            dimension) and keeps the rest.

    Raises:
        UsageError: A matrix that is not finite has no scale.
    """
    stored: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if storage == "bfloat16" and tensor.is_floating_point():
            stored[name] = tensor.detach().to(torch.bfloat16)
        elif storage == "int8" and tensor.is_floating_point() and _is_matrix(tensor):
            stored[name], stored[name + SCALE] = _rounded(name, tensor.detach())
        else:
            stored[name] = tensor
    return stored


def restore(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a file: integers times their scales, float32; the rest as it is."""
    weights = {name: tensor for name, tensor in stored.items() if not name.endswith(SCALE)}
    for name, scale in stored.items():
        if name not in weights:
            own = name.removesuffix(SCALE)
            weights[own] = weights[own].float() * _by_row(scale, weights[own])
    return weights


def restored_types(
    header: Mapping[str, tuple[torch.dtype, tuple[int, ...]]],
) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Names, types and shapes that `restore` makes of a file with this header.

    An int8 tensor whose scales are missing or don't fit stays int8, and scales that belong to nothing stay.
    """
    types = dict(header)
    for name, (dtype, shape) in header.items():
        scale = header.get(name + SCALE)
        if dtype == torch.int8 and scale is not None and scale == (torch.float32, shape[:1]):
            types[name] = (torch.float32, shape)
            del types[name + SCALE]
    return types


def _is_matrix(tensor: Tensor) -> bool:
    return tensor.dim() > 1 and len(tensor) > 1 and tensor.numel() >= LEAST


def _rounded(name: str, matrix: Tensor) -> tuple[Tensor, Tensor]:
    values = matrix.to("cpu", torch.float64)
    largest = values.flatten(1).abs().amax(1)
    if not largest.isfinite().all():
        raise UsageError(f"{name}: holds infinity or not-a-number, which int8 can't; save it in full")
    scale = (largest / 127).float()
    # The scale that is stored divides, not the one before rounding; a row of zeros has none.
    steps = values / _by_row(scale.double().clamp_min(torch.finfo(torch.float32).tiny), values)
    return steps.round().clamp(-127, 127).to(torch.int8), scale


def _by_row(scale: Tensor, matrix: Tensor) -> Tensor:
    return scale.view(-1, *[1] * (matrix.dim() - 1))
