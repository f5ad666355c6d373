"""Layers of the convolutional auto-encoder; every row is treated by itself."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtp_plugins.cnn.config import GROUPS


def norm(channels: int) -> nn.GroupNorm:
    """GroupNorm as in latent diffusion: 32 groups, eps 1e-6."""
    return nn.GroupNorm(GROUPS, channels, eps=1e-6)


def conv(inputs: int, outputs: int) -> nn.Conv2d:
    """A 3 x 3 convolution that keeps the size of the map."""
    return nn.Conv2d(inputs, outputs, kernel_size=3, padding=1)


class Residual(nn.Module):
    """Twice norm, SiLU and convolution, added to the input, which a 1 x 1 convolution widens if need be."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1 = norm(inputs)
        self.conv1 = conv(inputs, outputs)
        self.norm2 = norm(outputs)
        self.conv2 = conv(outputs, outputs)
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, kernel_size=1)

    def forward(self, x: Tensor, drop_path: float = 0.0) -> Tensor:
        """(R, C, h, w) to (R, C', h, w); in training a row's branch drops with probability `drop_path`."""
        y = self.conv1(F.silu(self.norm1(x)))
        y = self.conv2(F.silu(self.norm2(y)))
        if drop_path and self.training:
            kept = torch.rand(len(x), 1, 1, 1, device=x.device) >= drop_path
            y = y * kept / (1 - drop_path)
        z: Tensor = self.shortcut(x) + y
        return z


class SelfAttention(nn.Module):
    """Single-head attention over all positions of a map, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = norm(channels)
        self.q = nn.Conv2d(channels, channels, kernel_size=1)
        self.k = nn.Conv2d(channels, channels, kernel_size=1)
        self.v = nn.Conv2d(channels, channels, kernel_size=1)
        self.proj = nn.Conv2d(channels, channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """(R, C, h, w) to the same shape."""
        y = self.norm(x)
        q, k, v = (layer(y).flatten(2).transpose(1, 2) for layer in (self.q, self.k, self.v))
        out = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        z: Tensor = x + self.proj(out.transpose(1, 2).unflatten(2, x.shape[2:]))
        return z


class Block(nn.Module):
    """A residual block, with or without attention behind it: the unit of sharding and checkpointing."""

    def __init__(self, inputs: int, outputs: int, *, attention: bool) -> None:
        super().__init__()
        self.residual = Residual(inputs, outputs)
        self.attention = SelfAttention(outputs) if attention else None

    def forward(self, x: Tensor, drop_path: float = 0.0) -> Tensor:
        """(R, C, h, w) to (R, C', h, w)."""
        y: Tensor = self.residual(x, drop_path)
        return y if self.attention is None else self.attention(y)


class Halve(nn.Module):
    """Convolution of stride 2; the map is padded at its right and lower edge only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel_size=3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(R, C, h, w) to (R, C, h / 2, w / 2)."""
        y: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return y


class Double(nn.Module):
    """Repeats each position in a square of four, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(R, C, h, w) to (R, C, 2 h, 2 w)."""
        y: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return y


def initialize(root: nn.Module) -> None:
    """Draws all weights below `root` from torch's global generator, by PyTorch's defaults as published."""
    for module in root.modules():
        if isinstance(module, nn.Conv2d | nn.GroupNorm):
            module.reset_parameters()
