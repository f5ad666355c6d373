"""Differentiable augmentation of a critic's inputs.

Source: Zhao et al. 2020, "Differentiable Augmentation for Data-Efficient GAN Training" (DiffAug).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

DRAWS = 7
"""Uniform numbers per row: brightness, saturation, contrast, two for the shift, two for cutout."""
SHIFT, CUTOUT = 0.125, 0.2
"""Largest translation (DiffAug), and side of the hole (UniTok), as fractions of the image's side."""


def augment(image: Tensor, draws: Tensor, kinds: Sequence[str]) -> Tensor:
    """The augmented images; gradients reach `image`.

    Args:
        image: (B, 3, H, W) in [-1, 1].
        draws: (B, DRAWS) uniform in [0, 1), the only source of randomness.
        kinds: ``"color"``, ``"translation"`` and ``"cutout"``, applied in this order.
    """
    for kind in kinds:
        if kind == "color":
            image = _color(image, draws[:, 0:3])
        elif kind == "translation":
            image = _translation(image, draws[:, 3:5])
        elif kind == "cutout":
            image = _cutout(image, draws[:, 5:7])
        else:
            raise ValueError(f"unknown augmentation {kind!r}")
    return image


def _color(image: Tensor, draws: Tensor) -> Tensor:
    brightness, saturation, contrast = (draws[:, i].view(-1, 1, 1, 1) for i in range(3))
    image = image + (brightness - 0.5)
    gray = image.mean(1, keepdim=True)
    image = (image - gray) * (2 * saturation) + gray
    mean = image.mean((1, 2, 3), keepdim=True)
    return (image - mean) * (contrast + 0.5) + mean


def _translation(image: Tensor, draws: Tensor) -> Tensor:
    """Translates each row by whole pixels, padded with zeros."""
    height, width = image.shape[-2:]
    down, right = (_whole(draws[:, i], side, SHIFT) for i, side in enumerate((height, width)))
    rows = torch.arange(height, device=image.device) - down[:, None]
    columns = torch.arange(width, device=image.device) - right[:, None]
    inside = _within(rows, height)[:, None, :, None] & _within(columns, width)[:, None, None, :]
    moved = image.gather(2, rows.clamp(0, height - 1)[:, None, :, None].expand_as(image))
    moved = moved.gather(3, columns.clamp(0, width - 1)[:, None, None, :].expand_as(image))
    return torch.where(inside, moved, torch.zeros((), dtype=image.dtype, device=image.device))


def _cutout(image: Tensor, draws: Tensor) -> Tensor:
    """Zeroes a square with its center anywhere in the image."""
    edges = []
    for axis, side in enumerate(image.shape[-2:]):
        center = (draws[:, axis] * side).floor()[:, None]
        place = torch.arange(side, device=image.device)
        edges.append((place - center).abs() * 2 <= CUTOUT * side)
    hole = edges[0][:, None, :, None] & edges[1][:, None, None, :]
    return torch.where(hole, torch.zeros((), dtype=image.dtype, device=image.device), image)


def _whole(draw: Tensor, side: int, fraction: float) -> Tensor:
    """An integer in -n .. n, n = `fraction` of `side` rounded."""
    most = round(fraction * side)
    return (draw * (2 * most + 1)).floor().long() - most


def _within(places: Tensor, side: int) -> Tensor:
    return (places >= 0) & (places < side)
