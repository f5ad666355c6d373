"""Pixel errors per row."""

from __future__ import annotations

import torch
from torch import Tensor


def absolute_error(image: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error of each row, (B,), for images (B, 3, H, W) of the same range."""
    return (image - target).abs().flatten(1).mean(1)


def squared_error(image: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of each row, (B,), for images (B, 3, H, W) of the same range."""
    return (image - target).square().flatten(1).mean(1)


def signal_to_noise(image: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each row in dB, (B,), for images (B, 3, H, W) in [0, 1]; at most 100."""
    return -10 * torch.log10(squared_error(image.clamp(0, 1), target.clamp(0, 1)).clamp_min(1e-10))
