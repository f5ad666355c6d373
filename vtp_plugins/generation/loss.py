"""Flow matching on the straight path from noise to data (Lipman et al. 2022): pure functions.

Time runs from 0, noise, to 1, data: x_t = t x + (1 - t) noise, with the velocity x - noise.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

SHIFT_NUMEL = 4096
"""Numel of a latent for which no shift is needed (Esser et al. 2024, as in RAE)."""

LEAST_NOISE = 0.05
"""Smallest 1 - t by which a prediction of the data is turned into a velocity (JiT)."""


def default_shift(numel: int) -> float:
    """The shift for latents of that numel: sqrt(numel / 4096) (RAE, section 4.2), at least 1 (ours)."""
    return max(1.0, math.sqrt(numel / SHIFT_NUMEL))


def shifted(t: Tensor, shift: float) -> Tensor:
    """Times moved to the noise: t / (t + a (1 - t)), which divides the odds t / (1 - t) by a.

    Args:
        t: Times in [0, 1], any shape and floating dtype.
        shift: a, above 0; 1 moves nothing.
    """
    return t / (t + shift * (1 - t))


def effective_shift(shift: float, mu: float) -> float:
    """The shift that has the effect of `shift` and of the mean `mu` of the times' logit together."""
    return shift * math.exp(-mu)


def lognormal_times(normal: Tensor, mu: float, sigma: float, shift: float) -> Tensor:
    """Times whose logit is normal (Esser et al. 2024), shifted, of standard normal numbers."""
    return shifted(torch.sigmoid(mu + sigma * normal), shift)


def uniform_times(normal: Tensor, shift: float) -> Tensor:
    """Uniform times, shifted, of standard normal numbers."""
    return shifted(torch.special.ndtr(normal), shift)


def between(x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Points of the path: t x + (1 - t) noise.

    Args:
        x: Normalised latents (B, d, h, w).
        noise: Same shape.
        t: (B,).
    """
    t = _by_row(t, x)
    return t * x + (1 - t) * noise


def velocity_of(prediction: Tensor, point: Tensor, t: Tensor) -> Tensor:
    """The velocity at a point (B, d, h, w) that leads to a predicted x: (x - x_t) / (1 - t), 1 - t >= 0.05.

    Source:
        Li and He 2025 (JiT), section 4.
    """
    return (prediction - point) / (1 - _by_row(t, point)).clamp(min=LEAST_NOISE)


def squared_error(velocity: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of each row, (B, d, h, w) to (B,)."""
    return (velocity - target).square().flatten(1).mean(1)


def cosine_error(velocity: Tensor, target: Tensor) -> Tensor:
    """Mean over positions of 1 - cosine over channels, (B, d, h, w) to (B,) (LightningDiT, section 4)."""
    return (1 - F.cosine_similarity(velocity, target, dim=1)).flatten(1).mean(1)


def _by_row(t: Tensor, like: Tensor) -> Tensor:
    return t.view(-1, *[1] * (like.dim() - 1))
