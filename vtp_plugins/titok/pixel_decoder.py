"""The convolutional decoder of codes in the first published TiToks (MaskGIT-VQGAN, arXiv 2202.04200)."""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from vtp_plugins.titok.config import GROUPS, PixelsConfig


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(GROUPS, channels, eps=1e-6)


def _conv(inputs: int, outputs: int, *, bias: bool) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=bias)


class Residual(nn.Module):
    """Twice norm, SiLU and convolution, added to the input.

    Where the number of channels changes, a 1 x 1 convolution of the *result* is added instead of the input,
    as published.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1 = _norm(inputs)
        self.conv1 = _conv(inputs, outputs, bias=False)
        self.norm2 = _norm(outputs)
        self.conv2 = _conv(outputs, outputs, bias=False)
        self.nin_shortcut = (
            None if inputs == outputs else nn.Conv2d(outputs, outputs, kernel_size=1, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to (B, C', h, w)."""
        y = self.conv1(F.silu(self.norm1(x)))
        y = self.conv2(F.silu(self.norm2(y)))
        z: Tensor = y + (x if self.nin_shortcut is None else self.nin_shortcut(y))
        return z


class Level(nn.Module):
    """The residual blocks of one size of the map, and the convolution behind its doubling."""

    def __init__(self, inputs: int, outputs: int, blocks: int, *, doubles: bool) -> None:
        super().__init__()
        self.block = nn.ModuleList(
            Residual(inputs if number == 0 else outputs, outputs) for number in range(blocks)
        )
        self.upsample_conv = _conv(outputs, outputs, bias=True) if doubles else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to (B, C', h, w), or twice as high and wide."""
        for block in self.block:
            x = block(x)
        if self.upsample_conv is not None:
            x = self.upsample_conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return x


class PixelDecoder(nn.Module):
    """Codes of patches to an image in [0, 1]."""

    def __init__(self, config: PixelsConfig) -> None:
        super().__init__()
        channels = config.channels
        self.conv_in = _conv(config.code_width, channels[-1], bias=True)
        self.mid = nn.ModuleList(Residual(channels[-1], channels[-1]) for _ in range(config.middle))
        inputs = (*channels[1:], channels[-1])
        self.up = nn.ModuleList(
            Level(before, own, config.blocks, doubles=level > 0)
            for level, (before, own) in enumerate(zip(inputs, channels, strict=True))
        )
        self.norm_out = _norm(channels[0])
        self.conv_out = _conv(channels[0], 3, bias=True)

    def forward(self, z: Tensor) -> Tensor:
        """(B, code width, h, w) to (B, 3, h * patch, w * patch), unclamped."""
        x = self.conv_in(z)
        for block in self.mid:
            x = block(x)
        for level in reversed(cast(list[Level], list(self.up))):
            x = level(x)
        image: Tensor = self.conv_out(F.silu(self.norm_out(x)))
        return image
