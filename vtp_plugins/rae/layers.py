"""The transformer block of all four networks of RAE: pre-norm, separate positions, full attention."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtp_plugins.rae.config import BlocksConfig

Gelu = Literal["none", "tanh"]


class Block(nn.Module):
    """Layer norm, attention, layer norm, two linear layers with GELU; both branches are added.

    Args:
        config: Sizes.
        gelu: ``"none"`` for the exact function, ``"tanh"`` for its approximation.
        layer_scale: Whether each branch has a factor per channel.
    """

    def __init__(self, config: BlocksConfig, *, gelu: Gelu = "none", layer_scale: bool = False) -> None:
        super().__init__()
        width = config.width
        self.heads, self.gelu = config.heads, gelu
        self.norm1 = nn.LayerNorm(width, eps=config.eps)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=config.eps)
        self.fc1 = nn.Linear(width, config.hidden)
        self.fc2 = nn.Linear(config.hidden, width)
        self.scale1 = nn.Parameter(torch.ones(width)) if layer_scale else None
        self.scale2 = nn.Parameter(torch.ones(width)) if layer_scale else None

    def forward(self, x: Tensor) -> Tensor:
        """(R, N, D) to the same shape."""
        q, k, v = (
            part.transpose(1, 2)
            for part in self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).unbind(2)
        )
        y = self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        x = x + (y if self.scale1 is None else y * self.scale1)
        y = self.fc2(F.gelu(self.fc1(self.norm2(x)), approximate=self.gelu))
        return x + (y if self.scale2 is None else y * self.scale2)


def initialize(root: nn.Module) -> None:
    """Draws weights below `root` from torch's global generator: normal of deviation 0.02, biases zero."""
    for module in root.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            module.reset_parameters()
        elif isinstance(module, Block):
            for scale in (module.scale1, module.scale2):
                if scale is not None:
                    nn.init.ones_(scale)
