"""Colours of images: trivial reconstructions from colours alone, and CIE L*a*b*."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

XYZ_OF_RGB = (
    (0.4124, 0.3576, 0.1805),
    (0.2126, 0.7152, 0.0722),
    (0.0193, 0.1192, 0.9505),
)
"""Linear sRGB to CIE XYZ (IEC 61966-2-1); the rows' sums are the white point, D65."""


def mean_color(image: Tensor) -> Tensor:
    """Replaces each image by its own mean colour, rounded to 8 bit; same shape and type."""
    mean = image.double().mean((2, 3), keepdim=True).round()
    return mean.expand(image.shape).to(image.dtype)


def grid_colors(image: Tensor, grid: tuple[int, int]) -> Tensor:
    """Replaces each image by the mean colours of a grid's cells, enlarged bilinearly; both rounded to 8 bit.

    What a latent of three numbers at each position gives without any training.

    Args:
        image: (B, 3, H, W) uint8.
        grid: Rows and columns.
    """
    small = F.adaptive_avg_pool2d(image.double(), grid).round()
    large = F.interpolate(small, size=image.shape[-2:], mode="bilinear", align_corners=False)
    return large.round().to(image.dtype)


def mean_lab(image: Tensor) -> Tensor:
    """L*, a* and b* of each image's mean colour, (B, 3) float64.

    The mean is of the sRGB values themselves, so that blur changes nothing.

    Args:
        image: (B, 3, H, W) in [0, 255], sRGB.

    Source:
        CIE 15:2004, section 8.2.1, with sRGB's own white point.
    """
    encoded = image.double().mean((2, 3)) / 255
    linear = torch.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    matrix = torch.tensor(XYZ_OF_RGB, dtype=linear.dtype, device=linear.device)
    x, y, z = _root((linear @ matrix.T) / matrix.sum(1)).unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


def _root(ratio: Tensor) -> Tensor:
    """The cube root, with CIE's straight line near zero."""
    edge = 6 / 29
    return torch.where(ratio > edge**3, ratio.clamp_min(edge**3) ** (1 / 3), ratio / (3 * edge**2) + 4 / 29)
