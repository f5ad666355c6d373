"""Figures of a covariance spectrum, and of means and deviations beside those of an artefact, in float64."""

from __future__ import annotations

import numpy
import torch
from torch import Tensor

from vtp_core.math.moments import Moments

EPSILON = 1e-7
"""Added to each share of the singular values (Garrido et al. 2023, equation 1)."""
LEAST_DEVIATION = 1e-8
"""Deviation at and below which a channel counts as constant, as where an artefact's are measured."""


def spectrum(scatter: Tensor) -> Tensor:
    """Eigenvalues (D,) of a symmetric matrix without negative ones, descending; those of rounding are 0."""
    values = torch.linalg.eigvalsh(scatter).flip(0)
    rounding = len(values) * torch.finfo(values.dtype).eps * values[0]
    return torch.where(values > rounding, values, 0)


def effective_rank(values: Tensor) -> float:
    """Exp of the entropy of the eigenvalues' shares, 1 to D (Roy and Vetterli 2007, of a covariance)."""
    shares = values / values.sum()
    return float(torch.special.entr(shares).sum().exp())


def participation_ratio(values: Tensor) -> float:
    """(sum of eigenvalues)^2 / sum of their squares, 1 to D."""
    return float(values.sum().square() / values.square().sum())


def rankme(values: Tensor) -> float:
    """Exp of the entropy of the singular values' shares (Garrido et al. 2023, equation 1).

    Args:
        values: (D,) squares of the singular values of the matrix of vectors, which is not centred. Singular
            values below about 1e-7 of the largest are rounding, and 0.
    """
    roots = values.sqrt()
    shares = roots / roots.sum() + EPSILON
    return float((-shares * shares.log()).sum().exp())


def uncentred(moments: Moments) -> Tensor:
    """The sum of the vectors' outer products, (D, D)."""
    return moments.about(torch.zeros_like(moments.mean))


def dimensions(values: Tensor, part: float) -> int:
    """Least number of principal directions that hold a part of the variance."""
    return int((values.cumsum(0) < part * values.sum()).sum()) + 1


def white_spectrum(vectors: int, width: int) -> Tensor:
    """Eigenvalues (D,) of the scatter of as many white Gaussian vectors of known mean, the same each time.

    Bartlett's decomposition draws the scatter without the vectors.
    """
    generator = numpy.random.default_rng(0)
    if vectors < width:
        drawn = generator.standard_normal((width, vectors))
    else:
        drawn = numpy.tril(generator.standard_normal((width, width)), -1)
        numpy.fill_diagonal(drawn, numpy.sqrt(generator.chisquare(vectors - numpy.arange(width))))
    return spectrum(torch.from_numpy(drawn @ drawn.T))


def gaussian_gap(mean: Tensor, std: Tensor, other_mean: Tensor, other_std: Tensor) -> float:
    """Kullback-Leibler divergence from one Gaussian to another, mean of the channels in nats.

    Args:
        mean: (D,) of the first.
        std: (D,) of the first; constant channels are left out.
        other_mean: (D,) of the second.
        other_std: (D,) of the second, positive.
    """
    live = std > LEAST_DEVIATION
    ratio = (std / other_std)[live]
    shift = ((mean - other_mean) / other_std)[live]
    return float(((ratio.square() + shift.square() - 1) / 2 - ratio.log()).mean()) if len(ratio) else 0.0
