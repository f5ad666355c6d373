"""PSNR, SSIM, MS-SSIM and high-frequency energy of 8-bit images, in float64."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

IDENTICAL_DB = 100.0
"""PSNR assigned to identical images, for which it is infinite."""

WINDOW = 11
"""Side of the Gaussian window in pixels."""

DEVIATION = 1.5
"""Standard deviation of the window in pixels."""

SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of MS-SSIM, from the full resolution to 1/16 (Wang et al. 2003, section 3.2)."""

MULTISCALE_SIDE = WINDOW * 2 ** (len(SCALE_WEIGHTS) - 1)
"""Smallest side in pixels at which the window fits on every scale of MS-SSIM: 176."""


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


def ssim(image: Tensor, reference: Tensor, *, mirrored: bool = False) -> Tensor:
    """Structural similarity per image (Wang et al. 2004, section III-B).

    An 11 x 11 Gaussian window of deviation 1.5 at every position where it fits, population moments,
    K1 = 0.01, K2 = 0.03, computed per colour channel and averaged.

    Args:
        image: (B, 3, H, W) in [0, 255]; H and W at least 11.
        reference: The same shape.
        mirrored: Also at the positions where the window reaches over the border, which is mirrored:
            torchmetrics' default.

    Returns:
        (B,) float64, at most 1.
    """
    x, y = image.double(), reference.double()
    if mirrored:
        x, y = (F.pad(each, [WINDOW // 2] * 4, mode="reflect") for each in (x, y))
    luminance, structure = _similarity(x, y)
    return (luminance * structure).mean((1, 2, 3))


def ms_ssim(image: Tensor, reference: Tensor) -> Tensor:
    """Multi-scale structural similarity per image (Wang et al. 2003, equation 7).

    Windows and constants of `ssim`, means of 2 x 2 pixels between scales. A scale's term is averaged over
    channels and positions; a negative one counts as 0.

    Args:
        image: (B, 3, H, W) in [0, 255]; H and W at least 176.
        reference: The same shape.

    Returns:
        (B,) float64, 0 to 1.
    """
    x, y = image.double(), reference.double()
    product = torch.ones(len(x), dtype=x.dtype, device=x.device)
    for scale, weight in enumerate(SCALE_WEIGHTS):
        if scale:
            x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
        luminance, structure = _similarity(x, y)
        term = structure if scale < len(SCALE_WEIGHTS) - 1 else luminance * structure
        product = product * term.mean((1, 2, 3)).clamp_min(0) ** weight
    return product


def fine_energy(image: Tensor) -> Tensor:
    """Energy of an image's high frequencies: the mean square of what the window of `ssim` blurs away.

    Args:
        image: (B, 3, H, W) in [0, 255]; H and W at least 11.

    Returns:
        (B,) float64; the mean over channels and the positions where the window fits.
    """
    x, edge = image.double(), WINDOW // 2
    return (x[..., edge:-edge, edge:-edge] - _blur(x)).square().mean((1, 2, 3))


def _similarity(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """SSIM's luminance term, and its contrast and structure terms in one, at each position."""
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_x, mean_y = _blur(x), _blur(y)
    var_x = _blur(x * x) - mean_x**2
    var_y = _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return luminance, (2 * covariance + c2) / (var_x + var_y + c2)


def _blur(x: Tensor) -> Tensor:
    offset = torch.arange(WINDOW, dtype=x.dtype, device=x.device) - WINDOW // 2
    window = torch.exp(-offset.square() / (2 * DEVIATION**2))
    window = (window / window.sum()).repeat(x.shape[1], 1)
    across = F.conv2d(x, window[:, None, None, :], groups=x.shape[1])
    return F.conv2d(across, window[:, None, :, None], groups=x.shape[1])
