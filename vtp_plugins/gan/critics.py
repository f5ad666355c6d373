"""The critics: images or features to logits (B, L)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from vtp_plugins.gan.config import DinoConfig, PatchGanConfig, StyleGanConfig
from vtp_plugins.gan.layers import Halve, SpectralConv1d, build_norm


class Critic(nn.Module):
    """A critic of images, made of plain convolutions, so that gradient penalties can be differentiated.

    Attributes:
        smallest: Smallest side of an image in pixels.
    """

    smallest: int = 1

    def forward(self, *inputs: Tensor) -> Tensor:
        """Logits (B, L), large for images.

        Args:
            inputs: The image (B, 3, H, W) in [-1, 1], or the maps (B, C_i, h_i, w_i) of a frozen network.
        """
        raise NotImplementedError

    @torch.no_grad()
    def after_update(self) -> None:
        """Refines the singular vectors of the spectral norms after an update."""
        for module in self.modules():
            if isinstance(module, SpectralConv1d):
                module.power_iterate()


class PatchGan(Critic):
    """PatchGAN (Isola et al. 2017); weights from N(0, 0.02) as published."""

    def __init__(self, config: PatchGanConfig) -> None:
        super().__init__()
        self.smallest = 3 * 2**config.layers
        widths = [min(2**i, 8) * config.filters for i in range(config.layers + 1)]
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 4, 2, 1), nn.LeakyReLU(0.2)]
        for index in range(1, len(widths)):
            stride = 2 if index < config.layers else 1
            conv = nn.Conv2d(
                widths[index - 1], widths[index], 4, stride, 1, bias=config.norm in ("none", "group")
            )
            layers += [conv, build_norm(config.norm, widths[index], 2), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 4, 1, 1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.02)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1.0, 0.02)

    def forward(self, *inputs: Tensor) -> Tensor:
        """One logit per patch."""
        (image,) = inputs
        logits: Tensor = self.layers(image)
        return logits.flatten(1)


class TokenHead(nn.Module):
    """One logit per token from one feature map (StyleGAN-T, section 4.2; VAR's and RAE's critic)."""

    def __init__(self, channels: int, config: DinoConfig) -> None:
        super().__init__()
        self.first = self._block(channels, 1, config.norm)
        self.second = self._block(channels, config.kernel, config.norm)
        self.last = SpectralConv1d(channels, 1, 1)

    def forward(self, feature: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, h * w)."""
        hidden = self.first(feature.flatten(2))
        hidden = (hidden + self.second(hidden)) * math.sqrt(0.5)
        logits: Tensor = self.last(hidden)
        return logits.squeeze(1)

    @staticmethod
    def _block(channels: int, kernel: int, norm: str) -> nn.Module:
        conv = SpectralConv1d(channels, channels, kernel)
        return nn.Sequential(conv, build_norm(norm, channels, 1), nn.LeakyReLU(0.2))


class FeatureHeads(Critic):
    """One head for each feature map of a frozen network."""

    def __init__(self, config: DinoConfig, channels: Sequence[int]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(TokenHead(width, config) for width in channels)

    def forward(self, *inputs: Tensor) -> Tensor:
        """The concatenated logits of all heads."""
        return torch.cat([head(feature) for head, feature in zip(self.heads, inputs, strict=True)], 1)


class ResidualBlock(nn.Module):
    """A residual block of two convolutions with stride 2."""

    def __init__(self, channels: int, outputs: int, norm: str) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, 1, 1),
            build_norm(norm, channels, 2),
            nn.LeakyReLU(0.2),
            Halve(),
            nn.Conv2d(channels, outputs, 3, 1, 1),
            build_norm(norm, outputs, 2),
            nn.LeakyReLU(0.2),
        )
        self.skip = nn.Sequential(Halve(), nn.Conv2d(channels, outputs, 1, bias=False))

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, outputs, H // 2, W // 2)."""
        mixed: Tensor = (self.body(image) + self.skip(image)) * math.sqrt(0.5)
        return mixed


class StyleGan(Critic):
    """Residual blocks, the mean over positions, one logit (similar to Karras et al. 2020)."""

    def __init__(self, config: StyleGanConfig) -> None:
        super().__init__()
        self.smallest = 2**config.layers
        widths = [min(config.filters * 2**i, config.max_filters) for i in range(config.layers + 1)]
        blocks = [ResidualBlock(a, b, config.norm) for a, b in pairwise(widths)]
        self.inward = nn.Sequential(nn.Conv2d(3, widths[0], 1), nn.LeakyReLU(0.2))
        self.body = nn.Sequential(*blocks)
        self.last = nn.Sequential(nn.Conv2d(widths[-1], widths[-1], 3, 1, 1), nn.LeakyReLU(0.2))
        self.judge = nn.Linear(widths[-1], 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=0.2)

    def forward(self, *inputs: Tensor) -> Tensor:
        """One logit per row."""
        (image,) = inputs
        hidden = self.last(self.body(self.inward(image)))
        logits: Tensor = self.judge(hidden.mean((2, 3)))
        return logits
