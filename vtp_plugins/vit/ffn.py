"""The feed-forward layers of a block."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class SwiGlu(nn.Module):
    """w3(silu(w1 x) * w2 x), all with bias (Shazeer, 2020)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(width, hidden)
        self.w2 = nn.Linear(width, hidden)
        self.w3 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) to (..., width)."""
        y: Tensor = self.w3(F.silu(self.w1(x)) * self.w2(x))
        return y


class Mlp(nn.Module):
    """fc2(gelu(fc1 x)) with the exact GELU."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) to (..., width)."""
        y: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return y
