"""Principal components of latents, as statistics and as colours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Basis:
    """Principal components of the latents of a set.

    Attributes:
        mean: (d,) float64.
        directions: (d, k) float64, at most three components, unit length, largest first.
        scale: (k,) float64, their standard deviations.
        explained: Each component's fraction of the variance, all d of them.
    """

    mean: Tensor
    directions: Tensor
    scale: Tensor
    explained: list[float]

    def colors(self, latent: Tensor) -> NDArray[np.uint8]:
        """(B, h, w, 3) uint8: components as red, green, blue; two standard deviations around grey."""
        flat = latent.double().cpu().permute(0, 2, 3, 1) - self.mean
        components = flat @ self.directions / self.scale
        unit = (components / 4 + 0.5).clamp(0, 1)
        padded = torch.cat([unit, torch.full((*unit.shape[:-1], 3 - unit.shape[-1]), 0.5)], -1)
        return (padded * 255).round().to(torch.uint8).numpy()


class Moments:
    """Sums of the latents (B, d, h, w) of all positions, in float64."""

    def __init__(self) -> None:
        self.count = 0
        self.sum = torch.zeros(0, dtype=torch.float64)
        self.products = torch.zeros(0, 0, dtype=torch.float64)

    def add(self, latent: Tensor) -> None:
        """Adds a batch."""
        flat = latent.double().transpose(0, 1).flatten(1).cpu()
        if not self.count:
            self.sum, self.products = flat.sum(1), flat @ flat.T
        else:
            self.sum, self.products = self.sum + flat.sum(1), self.products + flat @ flat.T
        self.count += flat.shape[1]

    def channels(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each channel."""
        mean = self.sum / self.count
        variance = (self.products.diagonal() / self.count - mean.square()).clamp_min(0)
        return mean.tolist(), variance.sqrt().tolist()

    def basis(self) -> Basis:
        """The principal components."""
        mean = self.sum / self.count
        values, vectors = torch.linalg.eigh(self.products / self.count - torch.outer(mean, mean))
        values, directions = values.clamp_min(0).flip(0), vectors.flip(1)
        # The sign of a component is arbitrary: the largest entry is made positive for reproducible pictures.
        signs = directions.gather(0, directions.abs().argmax(0, keepdim=True)).sign()
        keep = min(3, len(values))
        total = values.sum().clamp_min(1e-300)
        return Basis(
            mean=mean,
            directions=(directions * signs)[:, :keep],
            scale=values[:keep].sqrt().clamp_min(1e-12),
            explained=(values / total).tolist(),
        )
