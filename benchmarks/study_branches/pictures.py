"""What is lost in decoded images: colour and texture, image by image."""

from __future__ import annotations

import torch
from torch import Tensor

FROM_SRGB = (
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339, 0.1191920, 0.9503041),
)
"""Linear sRGB to XYZ (IEC 61966-2-1, D65)."""
LUMA = (0.299, 0.587, 0.114)
FINE = 0.25
"""Cycles a pixel from which frequencies are high: half of the finest that there is."""


def to_lab(images: Tensor) -> Tensor:
    """Images (B, 3, H, W) uint8 in sRGB to CIE L*a*b* (D65), float64."""
    rgb = images.double() / 255
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    matrix = torch.tensor(FROM_SRGB, dtype=torch.float64)
    xyz = torch.einsum("ij,bjhw->bihw", matrix / matrix.sum(1, keepdim=True), linear)
    edge = 6 / 29
    cube = torch.where(xyz > edge**3, xyz.clamp(min=1e-12) ** (1 / 3), xyz / (3 * edge**2) + 4 / 29)
    x, y, z = cube.unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


def colour_shift(shown: Tensor, images: Tensor) -> Tensor:
    """(B,) mean over L*, a* and b* of the absolute difference of the images' means."""
    return (to_lab(shown).mean((2, 3)) - to_lab(images).mean((2, 3))).abs().mean(1)


def fine_energy(images: Tensor) -> Tensor:
    """(B,) energy of the luma's frequencies of `FINE` cycles a pixel and more, in any direction."""
    weights = torch.tensor(LUMA, dtype=torch.float64).view(3, 1, 1)
    luma = (images.double() / 255 * weights).sum(1)
    spectrum = torch.fft.fft2(luma, norm="ortho").abs().square()
    rows, columns = (torch.fft.fftfreq(side, dtype=torch.float64) for side in luma.shape[-2:])
    high = (rows[:, None].square() + columns.square()).sqrt() >= FINE
    return (spectrum * high).sum((1, 2))
