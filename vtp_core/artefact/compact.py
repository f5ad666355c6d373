"""Compact storage of weights: matrices as 8-bit integers with one scale per row, or all weights as bfloat16.

A matrix ``name`` is stored as an int8 tensor and ``name:scale`` (rows,) float32: row r is its integers times
scale r. The scale is the row's largest magnitude over 127, so that rounding changes a weight by at most half
a scale. Reading returns the stored values exactly, in float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from vtp_core.errors import UsageError

Storage = Literal["full", "bfloat16", "int8"]

SCALE = ":scale"
"""Suffix of the names of scales; names in a state dict have no colon."""
LEAST = 1024
"""Smallest number of elements of a matrix that is stored as int8."""


def compress(tensors: Mapping[str, Tensor], storage: Storage) -> dict[str, Tensor]:
    """The tensors to store for these weights.

    Args:
        tensors: Name -> tensor on any device.
        storage: ``"full"`` keeps all unchanged. ``"bfloat16"`` rounds all floating point numbers.
            ``"int8"`` rounds matrices (two or more dimensions, at least 1024 elements, rows along the first
            dimension) and keeps the rest.

    Raises:
        UsageError: A matrix to be rounded to int8 is not finite.
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
    """The weights of stored tensors: integers times scales in float32, all others unchanged."""
    weights = {name: tensor for name, tensor in stored.items() if not name.endswith(SCALE)}
    for name, scale in stored.items():
        if name not in weights:
            own = name.removesuffix(SCALE)
            weights[own] = weights[own].float() * _by_row(scale, weights[own])
    return weights


def restored_types(
    header: Mapping[str, tuple[torch.dtype, tuple[int, ...]]],
) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Names, types and shapes that `restore` returns for a file with this header.

    An int8 tensor without fitting scales stays int8, and scales without their tensor stay.
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
        raise UsageError(f"{name}: holds infinity or not-a-number, which int8 can't store; save it in full")
    scale = (largest / 127).float()
    # Divides by the scale as stored, in float32; a row of zeros has scale 0.
    steps = values / _by_row(scale.double().clamp_min(torch.finfo(torch.float32).tiny), values)
    return steps.round().clamp(-127, 127).to(torch.int8), scale


def _by_row(scale: Tensor, matrix: Tensor) -> Tensor:
    return scale.view(-1, *[1] * (matrix.dim() - 1))
