"""Pixel ranges and the conversions between them.

A *value range* is how an image tensor stores intensities: ``(low, high)`` for black and white, or
``"imagenet"`` for (unit - mean) / std per channel. Encoders are fed ``"imagenet"``; every decoder names its
own; perceptual networks and critics are fed ``(-1, 1)``.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

ValueRange = tuple[float, float] | Literal["imagenet"]

UNIT: ValueRange = (0.0, 1.0)
SIGNED: ValueRange = (-1.0, 1.0)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def _channels(values: tuple[float, ...], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(3, 1, 1)


def normalize(unit: Tensor) -> Tensor:
    """[0, 1] pixels (..., 3, H, W) to ImageNet-normalised ones."""
    return (unit - _channels(IMAGENET_MEAN, unit)) / _channels(IMAGENET_STD, unit)


def convert(image: Tensor, source: ValueRange, target: ValueRange) -> Tensor:
    """An image tensor in another value range, differentiable and unclamped.

    Args:
        image: (..., 3, H, W) floating point, in `source`.
        source: Range of `image`.
        target: Range of the result.
    """
    if source == target:
        return image
    if source == "imagenet":
        unit = image * _channels(IMAGENET_STD, image) + _channels(IMAGENET_MEAN, image)
    else:
        unit = (image - source[0]) / (source[1] - source[0])
    if target == "imagenet":
        return normalize(unit)
    return unit * (target[1] - target[0]) + target[0]


def to_uint8(image: Tensor, source: ValueRange, *, truncate: bool = False) -> Tensor:
    """Clamped 8-bit pixels (..., 3, H, W) of an image in `source`, rounded or truncated."""
    pixels = convert(image.float(), source, UNIT).clamp(0, 1) * 255
    return (pixels if truncate else pixels.round()).to(torch.uint8)
