"""Layers of critics: stateless norms, a spectrally normalised convolution, blurred downsampling."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def build_norm(kind: str, channels: int, dimensions: int) -> nn.Module:
    """A norm for feature maps of 1 or 2 spatial dimensions, without running statistics.

    Args:
        kind: ``none``, ``group``, ``sample`` (each channel of each row) or ``batch`` (the rows given).
        channels: Channels.
        dimensions: Spatial dimensions.
    """
    if kind == "none":
        return nn.Identity()
    if kind == "batch":
        return (nn.BatchNorm1d if dimensions == 1 else nn.BatchNorm2d)(channels, track_running_stats=False)
    return RowNorm(channels if kind == "sample" else math.gcd(32, channels), channels)


class RowNorm(nn.GroupNorm):
    """Group norm that also accepts a single row with one position, which torch's module refuses."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, ...) normalised over each group of each row."""
        return torch.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)


class SpectralConv1d(nn.Conv1d):
    """A convolution whose weight, as a matrix (out, in * kernel), is divided by its largest singular value.

    `forward` only reads the singular vectors, `power_iterate` refines them after each update, so two forwards
    of one step use the same weight (Miyato et al. 2018 iterate in forward).
    """

    def __init__(self, channels: int, outputs: int, kernel: int) -> None:
        super().__init__(channels, outputs, kernel)
        self.register_buffer("left", F.normalize(torch.randn(outputs), dim=0))
        self.register_buffer("right", torch.zeros(channels * kernel))
        for _ in range(15):
            self.power_iterate()

    def forward(self, input: Tensor) -> Tensor:
        """(B, channels, L) -> (B, outputs, L), with circular padding."""
        scale = torch.dot(self.get_buffer("left"), self.weight.flatten(1) @ self.get_buffer("right"))
        length, side = input.shape[-1], self.kernel_size[0] // 2
        if side:  # torch's circular padding wraps once only, and a map may be shorter than the kernel
            input = input.index_select(2, torch.arange(-side, length + side, device=input.device) % length)
        return F.conv1d(input, self.weight / scale, self.bias)

    @torch.no_grad()
    def power_iterate(self) -> None:
        """One power iteration for the first singular vectors of the weight."""
        left, right, matrix = self.get_buffer("left"), self.get_buffer("right"), self.weight.flatten(1)
        right.copy_(F.normalize(matrix.T @ left, dim=0))
        left.copy_(F.normalize(matrix @ right, dim=0))


class Halve(nn.Module):
    """Blurs with [1, 3, 3, 1] and takes every second pixel."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        self.register_buffer("kernel", torch.outer(taps, taps), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H // 2, W // 2)."""
        channels = image.shape[1]
        kernel = self.kernel.to(image.dtype).expand(channels, 1, 4, 4)
        padded = F.pad(image, (1, 1, 1, 1), mode="replicate")
        return F.conv2d(padded, kernel, stride=2, groups=channels)
