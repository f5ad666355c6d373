"""Weights that depend on a number of pixels or positions, fitted to another number.

Each function takes a tensor and the shape that is wanted, as `init_from.resample` asks of a network's
`resamplers`; it computes in float64 and returns the tensor's dtype. Resizing is linear: it is a matrix.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def resample_patch_embedding(weight: Tensor, shape: Sequence[int]) -> Tensor:
    """A patch embedding for patches of another size (FlexiViT, Beyer et al. 2023, section 3.4).

    With B the bilinear resize of a patch, the result w' = pinv(B^T) w is the least-squares solution of
    (B x) . w' = x . w for all patches x; to larger patches it is exact.

    Args:
        weight: (D, C, rows, columns), of a convolution.
        shape: (D, C, other rows, other columns).

    Raises:
        ValueError: D or C differ.
    """
    _require(weight.dim() == len(shape) == 4 and tuple(weight.shape[:2]) == tuple(shape[:2]), weight, shape)
    rows, columns = (
        torch.linalg.pinv(_resize(old, new, "bilinear").T)
        for old, new in zip(weight.shape[2:], shape[2:], strict=True)
    )
    resampled: Tensor = rows @ weight.detach().cpu().double() @ columns.T
    return resampled.to(weight)


def resample_pixels(weight: Tensor, shape: Sequence[int]) -> Tensor:
    """The last layer before a pixel shuffle, for patches of another size: it makes the resized patches.

    Args:
        weight: (3 * side * side, ...), weight or bias.
        shape: (3 * other side * other side, ...).

    Raises:
        ValueError: The other axes differ, or the first ones are no squares of three channels.
    """
    old, new = (math.isqrt(size // 3) for size in (weight.shape[0], shape[0]))
    fits = 3 * old * old == weight.shape[0] and 3 * new * new == shape[0]
    _require(fits and tuple(weight.shape[1:]) == tuple(shape[1:]), weight, shape)
    matrix = _resize(old, new, "bilinear")
    pixels = weight.detach().cpu().double().unflatten(0, (3, old, old))
    return torch.einsum("ai,bj,cij...->cab...", matrix, matrix, pixels).flatten(0, 2).to(weight)


def resample_positions(values: Tensor, shape: Sequence[int]) -> Tensor:
    """Learned positions of a sequence of another length, by linear interpolation (open_clip).

    Args:
        values: (..., T, D).
        shape: (..., other T, D).

    Raises:
        ValueError: Another axis than T differs.
    """
    same = len(shape) == values.dim() >= 2 and values.shape[-1] == shape[-1]
    _require(same and tuple(values.shape[:-2]) == tuple(shape[:-2]), values, shape)
    matrix = _resize(values.shape[-2], shape[-2], "bilinear")
    return (matrix @ values.detach().cpu().double()).to(values)


def resample_grid(values: Tensor, shape: Sequence[int]) -> Tensor:
    """Learned positions of a square grid of another side, by bicubic interpolation (DeiT, DINOv2).

    Tokens before the grid, which are fewer than make the next square, stay as they are.

    Args:
        values: (..., prefix + side * side, D), row-major.
        shape: (..., prefix + other side * other side, D).

    Raises:
        ValueError: Another axis or the prefix differs.
    """
    same = len(shape) == values.dim() >= 2 and values.shape[-1] == shape[-1]
    _require(same and tuple(values.shape[:-2]) == tuple(shape[:-2]), values, shape)
    old, new = math.isqrt(values.shape[-2]), math.isqrt(shape[-2])
    prefix = values.shape[-2] - old * old
    _require(prefix == shape[-2] - new * new, values, shape)
    matrix = _resize(old, new, "bicubic")
    grid = values[..., prefix:, :].detach().cpu().double().unflatten(-2, (old, old))
    resized = torch.einsum("ai,bj,...ijd->...abd", matrix, matrix, grid).flatten(-3, -2).to(values)
    return torch.cat((values[..., :prefix, :].detach(), resized), dim=-2)


def _resize(old: int, new: int, mode: Literal["bilinear", "bicubic"]) -> Tensor:
    """The antialiased resize of a line of `old` values to `new` ones, (new, old) float64."""
    lines = torch.eye(old, dtype=torch.float64)[None, None]
    return F.interpolate(lines, size=(old, new), mode=mode, antialias=True, align_corners=False)[0, 0].T


def _require(fits: bool, tensor: Tensor, shape: Sequence[int]) -> None:
    if not fits:
        raise ValueError(f"{tuple(tensor.shape)} can't be resampled to {tuple(shape)}: other axes differ too")
