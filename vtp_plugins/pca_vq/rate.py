"""Rate and distortion of Gaussian vectors: what any quantiser can reach at its bits.

Source: Cover and Thomas, Elements of Information Theory, theorem 10.3.3 (reverse water-filling).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

ROUNDS = 200
"""Halvings of the water level's interval."""


def water_filling(variances: Tensor, bits: float) -> tuple[float, Tensor]:
    """The least distortion of a Gaussian vector at a rate, and how the bits are spent.

    Args:
        variances: (D,) of independent axes, >= 0.
        bits: Bits a vector, >= 0.

    Returns:
        The mean squared error, summed over axes; and bits (D,) of each axis.
    """
    variances = variances.double()
    level = _level(variances, bits)
    spent = torch.where(variances > level, 0.5 * torch.log2(variances / level), 0.0)
    return torch.minimum(variances, torch.tensor(level, dtype=torch.float64)).sum().item(), spent


def split_bits(branches: Mapping[str, Tensor], bits: float) -> dict[str, float]:
    """Bits that each branch deserves of a total: one water level for the axes of all.

    Args:
        branches: Name -> variances (D,), in comparable units.
        bits: Bits of all branches together.
    """
    level = _level(torch.cat([variances.double() for variances in branches.values()]), bits)
    return {
        name: 0.5 * torch.log2((variances.double() / level).clamp(min=1)).sum().item()
        for name, variances in branches.items()
    }


def decibels_above_bound(error: Tensor, variances: Tensor, bits: float) -> Tensor:
    """How far a squared error is above the Gaussian bound at its bits, in dB.

    A bound for the data only where they are Gaussian: of clustered data a quantiser can be below it.

    Args:
        error: Mean squared error of a vector, summed over its axes.
        variances: (D,) of its principal axes.
        bits: log2 of the codebook's size.
    """
    least, _ = water_filling(variances.cpu(), bits)
    return 10 * torch.log10(error / least)


def _level(variances: Tensor, bits: float) -> float:
    """The water level at which the axes take `bits` in all."""
    low, high = 0.0, float(variances.max())
    for _ in range(ROUNDS):
        level = (low + high) / 2
        if level == 0:
            break
        taken = 0.5 * torch.log2((variances / level).clamp(min=1)).sum().item()
        low, high = (level, high) if taken > bits else (low, level)
    return high
