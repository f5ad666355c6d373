"""Mean and covariance of features, and the Fréchet distance of two normal distributions, in float64."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Moments:
    """Streaming mean and covariance of rows, in float64 on the CPU.

    Attributes:
        sums: Number of rows, their sum and the sum of their outer products, (1 + C + C * C,). The sums of
            several ranks add up.
    """

    def __init__(self, channels: int, sums: Tensor | None = None) -> None:
        self.channels = channels
        size = 1 + channels + channels**2
        self.sums = torch.zeros(size, dtype=torch.float64) if sums is None else sums

    def add(self, rows: Tensor) -> None:
        """Adds rows (B, C)."""
        wide = rows.double().cpu()
        self.sums[0] += len(wide)
        self.sums[1 : 1 + self.channels] += wide.sum(0)
        self._outer().addmm_(wide.T, wide)

    def mean_and_covariance(self) -> tuple[Tensor, Tensor]:
        """Mean (C,) and unbiased covariance (C, C).

        Raises:
            ValueError: Fewer than two rows were counted.
        """
        count = float(self.sums[0])
        if count < 2:
            raise ValueError(f"a covariance needs two rows, there are {count:.0f}")
        mean = self.sums[1 : 1 + self.channels] / count
        return mean, (self._outer() - count * torch.outer(mean, mean)) / (count - 1)

    def _outer(self) -> Tensor:
        return self.sums[1 + self.channels :].view(self.channels, self.channels)


def frechet_distance(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) of two means (C,) and covariances (C, C), float64.

    The trace of the root is that of (C1^(1/2) C2 C1^(1/2))^(1/2), which has the same eigenvalues: symmetric
    matrices alone, so that it stays real where C1 C2 is singular.

    Source:
        Dowson and Landau 1982; Heusel et al. 2017 for image features.
    """
    (mean, covariance), (other_mean, other_covariance) = one, other
    values, vectors = torch.linalg.eigh(covariance)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    inner = torch.linalg.eigvalsh(root @ other_covariance @ root)
    trace = covariance.trace() + other_covariance.trace() - 2 * inner.clamp_min(0).sqrt().sum()
    return float((mean - other_mean).square().sum() + trace.clamp_min(0))


def jackknife_error(without: Sequence[float]) -> float | None:
    """Standard error of a number from its values without each part of the samples; None of one part or none.

    Source:
        Efron and Tibshirani 1993, equation 11.5.
    """
    if len(without) < 2:
        return None
    values = torch.tensor(without, dtype=torch.float64)
    return float(((len(values) - 1) * values.var(correction=0)).sqrt())
