"""Colour operations on float pixels (3, H, W) in [0, 255], each clamped to that range.

The same formulas as torchvision's transforms, without rounding to 8 bit in between; `tests/core/data`
compares them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as in Pillow


def luma(pixels: Tensor) -> Tensor:
    """Luma (1, H, W)."""
    red, green, blue = pixels.unbind(0)
    return (_LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue)[None]


def brightness(pixels: Tensor, factor: float) -> Tensor:
    """Multiplies by `factor`; 1 changes nothing."""
    return (pixels * factor).clamp_(0, 255)


def contrast(pixels: Tensor, factor: float) -> Tensor:
    """Blends with the mean luma of the image; 1 changes nothing, 0 gives uniform grey."""
    return (pixels * factor + luma(pixels).mean() * (1 - factor)).clamp_(0, 255)


def saturation(pixels: Tensor, factor: float) -> Tensor:
    """Blends with the grayscale image; 1 changes nothing, 0 gives grayscale."""
    return (pixels * factor + luma(pixels) * (1 - factor)).clamp_(0, 255)


def grayscale(pixels: Tensor) -> Tensor:
    """Grayscale in three equal channels."""
    return luma(pixels).expand_as(pixels).contiguous()


def hue(pixels: Tensor, shift: float) -> Tensor:
    """Rotates the hue in HSV by `shift` of a full turn, -0.5 to 0.5."""
    high, low = pixels.amax(0), pixels.amin(0)
    spread = high - low
    safe = spread.clamp(min=1e-6)
    red, green, blue = pixels.unbind(0)
    # Position on the colour circle in sixths: 0 red, 2 green, 4 blue.
    sixth = torch.where(
        high == red,
        (green - blue) / safe,
        torch.where(high == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    sixth = sixth + 6 * shift
    turned = []
    for offset in (5.0, 3.0, 1.0):
        position = (sixth + offset) % 6
        turned.append(high - spread * torch.minimum(position, 4 - position).clamp(0, 1))
    return torch.stack(turned).clamp_(0, 255)


def blur(pixels: Tensor, sigma: float, radius: int = 4) -> Tensor:
    """Gaussian blur with a kernel of 2 * radius + 1 taps and reflected borders.

    The radius is at most the image's side - 1, the limit of reflection.
    """
    radius = min(radius, pixels.shape[-1] - 1, pixels.shape[-2] - 1)
    taps = torch.arange(-radius, radius + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (taps / sigma) ** 2)
    kernel = kernel / kernel.sum()
    padded = F.pad(pixels[:, None], (radius, radius, radius, radius), mode="reflect")
    rows = F.conv2d(padded, kernel.view(1, 1, 1, -1))
    return F.conv2d(rows, kernel.view(1, 1, -1, 1))[:, 0].clamp_(0, 255)


def solarize(pixels: Tensor, threshold: float = 128.0) -> Tensor:
    """Inverts values from `threshold` on."""
    return torch.where(pixels >= threshold, 255 - pixels, pixels)
