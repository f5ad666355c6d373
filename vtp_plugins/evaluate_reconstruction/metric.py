"""PSNR and SSIM of 8-bit images, in float64."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

IDENTICAL_DB = 100.0
"""PSNR assigned to identical images, for which it is infinite."""

WINDOW = 11
"""Side of the SSIM window in pixels."""


def psnr(image: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio per image.

    Args:
        image: (B, 3, H, W) in [0, 255].
        reference: The same shape.

    Returns:
        (B,) float64 in dB, at most 100.
    """
    error = (image.double() - reference.double()).square().mean((1, 2, 3))
    return (10 * (255.0**2 / error.clamp_min(1e-300)).log10()).clamp_max(IDENTICAL_DB)


def ssim(image: Tensor, reference: Tensor) -> Tensor:
    """Structural similarity per image (Wang et al. 2004, section III-B).

    An 11 x 11 Gaussian window of deviation 1.5 at every position where it fits, population moments,
    K1 = 0.01, K2 = 0.03, computed per colour channel and averaged.

    Args:
        image: (B, 3, H, W) in [0, 255]; H and W at least 11.
        reference: The same shape.

    Returns:
        (B,) float64, at most 1.
    """
    x, y = image.double(), reference.double()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_x, mean_y = _blur(x), _blur(y)
    var_x = _blur(x * x) - mean_x**2
    var_y = _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (var_x + var_y + c2)
    return (luminance * structure).mean((1, 2, 3))


def mean_color(image: Tensor) -> Tensor:
    """Replaces each image by its own mean colour, rounded to 8 bit; same shape and type."""
    mean = image.double().mean((2, 3), keepdim=True).round()
    return mean.expand(image.shape).to(image.dtype)


def _blur(x: Tensor) -> Tensor:
    offset = torch.arange(WINDOW, dtype=x.dtype, device=x.device) - WINDOW // 2
    window = torch.exp(-offset.square() / (2 * 1.5**2))
    window = (window / window.sum()).repeat(x.shape[1], 1)
    across = F.conv2d(x, window[:, None, None, :], groups=x.shape[1])
    return F.conv2d(across, window[:, None, :, None], groups=x.shape[1])
