"""DINO's head as two modules: tokens to unit vectors, and the prototypes.

No module returns the scores of all rows and prototypes; the loss computes them in blocks.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Head(nn.Module):
    """An MLP with GELU and without batch norm, and L2 normalisation of its output.

    Args:
        width: Width of the tokens.
        hidden: Width of the hidden layers.
        output: Width E of the unit vectors.
        layers: Linear layers, at least 1.

    Source:
        Caron et al. 2021 (DINO), appendix C; initialisation as in DINOv2.
    """

    def __init__(self, width: int, hidden: int, output: int, layers: int) -> None:
        super().__init__()
        self.width = width
        sizes = [width, *[hidden] * (layers - 1), output]
        modules: list[nn.Module] = []
        for before, after in pairwise(sizes):
            linear = nn.Linear(before, after)
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
            modules += [linear, nn.GELU()]
        self.mlp = nn.Sequential(*modules[:-1])

    def forward(self, tokens: Tensor) -> Tensor:
        """Unit vectors (n, E) of tokens (n, D), float32 or wider."""
        projected = self.mlp(tokens)
        return F.normalize(projected.to(torch.promote_types(projected.dtype, torch.float32)), dim=-1)


class Prototypes(nn.Module):
    """Prototypes as directions with scales (weight norm), named as in published checkpoints.

    Args:
        count: Number K of prototypes.
        width: Their width E.
        fixed_scales: Whether all scales stay at 1.
    """

    def __init__(self, count: int, width: int, *, fixed_scales: bool = False) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(count, 1), requires_grad=not fixed_scales)
        self.weight_v = nn.Parameter(torch.empty(count, width))
        nn.init.uniform_(self.weight_v, -(width**-0.5), width**-0.5)

    def numbers(self) -> Tensor:
        """Indices of all prototypes for `forward`, (K,) int64 on the CPU."""
        return torch.arange(len(self.weight_g))

    def forward(self, numbers: Tensor) -> Tensor:
        """Prototypes (n, E), float32 or wider, of length ``weight_g``.

        Args:
            numbers: (n,) int64, consecutive: a chunk of `numbers()`.
        """
        first = int(numbers[0]) if len(numbers) else 0
        direction = self.weight_v.narrow(0, first, len(numbers))
        scale = self.weight_g.narrow(0, first, len(numbers))
        wide = torch.promote_types(direction.dtype, torch.float32)
        # Fused. A direction of zero gives NaN, as with torch's weight norm.
        return torch._weight_norm(direction.to(wide), scale.to(wide), 0)
