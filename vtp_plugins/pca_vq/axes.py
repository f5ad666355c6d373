"""Principal axes of features, the weights of a search along them, and effective dimensions.

Our reading of DINO-Tok (arXiv 2511.20565): its method section could not be read. Emphasis of axes of large
variance is its first version, a dominant subspace its revision.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vtp_core.errors import DataError
from vtp_core.math.moments import Moments
from vtp_plugins.pca_vq.config import AxesConfig
from vtp_plugins.pca_vq.rate import water_filling

SMALLEST = 1e-6
"""Least variance of an axis, as a fraction of the largest, that a power of it is taken of."""


@dataclass(frozen=True, kw_only=True)
class Axes:
    """Principal axes.

    Attributes:
        mean: (D,).
        variances: (D,), descending, >= 0.
        vectors: (D, D), one axis a column; the largest entry of each is positive.
    """

    mean: Tensor
    variances: Tensor
    vectors: Tensor


def principal_axes(moments: Moments, name: str = "features") -> Axes:
    """The axes of vectors; float64, the same on every rank and machine up to rounding.

    Args:
        moments: With the whole scatter.
        name: Of the vectors, for the error.

    Raises:
        DataError: Fewer than two vectors are finite, or all are equal.
    """
    if moments.count < 2:
        raise DataError(f"{name}: {int(moments.count)} finite vectors; principal axes need at least 2")
    variances, vectors = torch.linalg.eigh(moments.covariance.cpu())
    variances, vectors = variances.flip(0).clamp(min=0), vectors.flip(1)
    scale = moments.mean.square().sum().sqrt().item()
    if not variances[0].item() > (1e-12 * scale) ** 2 or variances[0] == 0:
        raise DataError(f"{name}: all vectors are equal; there is nothing to quantise")
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    vectors = vectors * largest.sign()
    device = moments.mean.device
    return Axes(mean=moments.mean, variances=variances.to(device), vectors=vectors.to(device))


def search_weights(variances: Tensor, config: AxesConfig, bits: float) -> Tensor:
    """Weights (D,) of the squared distance along each axis; zeros follow the last axis that is searched.

    Scaled so that the mean squared distance stays that of the plain metric, whatever the mode.

    Args:
        variances: (D,) descending.
        config: The mode.
        bits: Bits of the codebook, for `rate`.
    """
    relative = (variances / variances[0]).clamp(min=SMALLEST)
    match config.mode:
        case "plain":
            weights = torch.ones_like(variances)
        case "reweight":
            weights = relative**config.alpha
        case "whiten":
            weights = 1 / relative
        case "dsq":
            weights = _first(variances, config.rank or explained_rank(variances, config.variance))
        case "rate":
            weights = _first(
                variances, max(int((water_filling(variances, config.bits or bits)[1] > 0).sum()), 1)
            )
    return weights * variances.sum() / (weights * variances).sum()


def explained_rank(variances: Tensor, fraction: float) -> int:
    """Axes that explain a fraction of the variance; at least 1."""
    explained = variances.cumsum(0) / variances.sum()
    return int((explained < fraction - 1e-12).sum().clamp(max=len(variances) - 1)) + 1


def effective_dimensions(variances: Tensor, weights: Tensor | None = None) -> Tensor:
    """Participation ratio (sum w v)^2 / sum (w v)^2; distances of independent vectors spread by sqrt(2 / it).

    Args:
        variances: (D,) of independent axes.
        weights: (D,) of the squared distance; None: 1.
    """
    scaled = variances if weights is None else variances * weights
    return scaled.sum().square() / scaled.square().sum()


def _first(variances: Tensor, rank: int) -> Tensor:
    return (torch.arange(len(variances), device=variances.device) < rank).to(variances.dtype)
