"""The KL divergence of a diagonal Gaussian from the standard normal."""

from __future__ import annotations

from torch import Tensor


def kl_to_standard_normal(mean: Tensor, logvar: Tensor) -> Tensor:
    """Element-wise KL(N(mean, exp(logvar)) || N(0, 1)) in nats.

    Args:
        mean: Any shape.
        logvar: Log variance, same shape.

    Returns:
        Same shape, non-negative (Kingma and Welling, 2014, appendix B).
    """
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar)
