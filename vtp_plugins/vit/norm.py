"""The norms of a block, and LayerScale."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vtp_core.ops.attention_torch import rms_norm
from vtp_plugins.vit.config import Norm


class RmsNorm(nn.Module):
    """Root-mean-square norm over the last axis: statistics in float32, then cast back, then the weight.

    Attributes:
        weight: (width,), ones at first.
        eps: Added to the mean square.
    """

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Sets the weight to ones."""
        nn.init.ones_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) to (..., width), same dtype."""
        return rms_norm(x, self.weight, self.eps)


class LayerScale(nn.Module):
    """A learned factor per channel (Touvron et al., 2021).

    Attributes:
        gamma: (width,).
    """

    def __init__(self, width: int, value: float) -> None:
        super().__init__()
        self.value = value
        self.gamma = nn.Parameter(torch.empty(width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Sets the factors to their initial value."""
        nn.init.constant_(self.gamma, self.value)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) to (..., width)."""
        return x * self.gamma


def make_norm(kind: Norm, width: int) -> nn.Module:
    """The norm of that name; their epsilons are the published models'."""
    if kind == "rmsnorm":
        return RmsNorm(width, eps=1e-5)
    return nn.LayerNorm(width, eps=1e-6 if kind == "layernorm" else 1e-5)
