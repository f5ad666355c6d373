"""Distances between two lists of feature maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def unit_length(features: Tensor) -> Tensor:
    """Feature maps (B, C, H, W) scaled to length 1 over C; all-zero positions stay zero.

    The squared length is bounded below, as the gradient of the root is NaN where all features are zero.
    """
    length = features.square().sum(1, keepdim=True).clamp_min(1e-20).sqrt()
    return features / (length + 1e-10)


def feature_distance(
    features: Sequence[Tensor], targets: Sequence[Tensor], heads: Sequence[Tensor] | None = None
) -> Tensor:
    """Squared distance of unit-length features, averaged over positions, of each row, (B,).

    Args:
        features: Maps (B, C_l, H_l, W_l), one per layer.
        targets: Those of the other image.
        heads: Channel weights (C_l,), one tensor per layer; the layers' distances are added (LPIPS). None:
            equal weights, and the layers' distances are averaged.

    Source:
        Zhang et al. 2018 (LPIPS), eq. 1.
    """
    distances = []
    for layer, (feature, target) in enumerate(zip(features, targets, strict=True)):
        difference = (unit_length(feature) - unit_length(target)).square()
        if heads is not None:
            difference = difference * heads[layer].to(difference.dtype)[:, None, None]
        distances.append(difference.sum(1).mean((1, 2)))
    stacked = torch.stack(distances)
    return stacked.mean(0) if heads is None else stacked.sum(0)
