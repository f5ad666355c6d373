"""The `fusion` bottleneck: fused layers as a continuous latent."""

from __future__ import annotations

import torch
from torch import Tensor

from vtp_core.bottleneck import Bottleneck
from vtp_core.features import Features, Latent, Tally, Tokens
from vtp_core.math.moments import Moments
from vtp_core.parameters import Dims
from vtp_plugins.fusion.chain import disturbed
from vtp_plugins.fusion.config import FusionBottleneckConfig
from vtp_plugins.fusion.fusion import Fusion

SMALLEST = 1e-5
"""Deviation below which a channel is not scaled: it is constant."""


class FusionBottleneck(Bottleneck):
    """Joins the branches of a `Fusion` and normalises each channel by calibrated statistics.

    State: `mean` and `std` (d,). The class token is not part of the latent.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: FusionBottleneckConfig, dims: Dims) -> None:
        super().__init__()
        self.config = config
        self.fusion = Fusion(config.fusion, dims)
        self.layers, self.branch_channels = self.fusion.layers, self.fusion.branches
        self.channels = self.fusion.channels
        self.calibration_rows = config.calibration_rows if config.normalize else 0
        self.register_buffer("mean", torch.zeros(self.channels))
        self.register_buffer("std", torch.ones(self.channels))
        self._measures: bool | None = None  # whether the coming `after_step` measures; None: not told

    def forward(self, features: Features) -> Latent:
        """The normalised latent of every crop set; `rms` of each branch is near 1 while it is up to date."""
        crops = {
            name: Tokens(patches=self._normed(self._fused(tokens, features.seeds)), grid=tokens.grid)
            for name, tokens in features.crops.items()
        }
        if not (self.training and self.config.normalize):
            return Latent(crops=crops)
        parts = crops["global"].patches.detach().split(list(self.branch_channels.values()), -1)
        return Latent(
            crops=crops,
            tally=self.observe(features) if self.config.recalibrate and self._measures is not False else None,
            report={
                f"{name}.rms": part.square().mean().sqrt()
                for name, part in zip(self.branch_channels, parts, strict=True)
            },
        )

    def decoder_input(self, z: Tensor, seeds: Tensor) -> Tensor:
        """The latent with the chain's noise and masks."""
        return disturbed(z, seeds, self.config.chain, self.std)

    def before_step(self, steps: range) -> None:
        """Measures in the steps of `recalibrate`; where those were missed, in the next one."""
        self._measures = any(step in steps for step in self.config.recalibrate)

    def after_step(self, tally: Tally, index: int) -> None:
        """New statistics where they are due."""
        if index in self.config.recalibrate if self._measures is None else self._measures:
            self.calibrate(tally)

    @torch.no_grad()
    def observe(self, features: Features) -> Tally | None:
        """Moments of each channel."""
        if not self.config.normalize:
            return None
        fused = self._fused(features["global"], None)
        return Tally(moments={"latent": Moments.of(fused, diagonal=True)})

    @torch.no_grad()
    def calibrate(self, tally: Tally) -> None:
        """Mean and deviation of each channel; a constant channel keeps its scale."""
        moments = tally.moments["latent"]
        std = moments.covariance.sqrt()
        self.mean.copy_(moments.mean)
        self.std.copy_(torch.where(std > SMALLEST, std, 1.0))

    def _fused(self, tokens: Tokens, seeds: Tensor | None) -> Tensor:
        return torch.cat(list(self.fusion(tokens, seeds).values()), -1)

    def _normed(self, x: Tensor) -> Tensor:
        if not self.config.normalize:
            return x
        x = x.float() if x.itemsize < 4 else x
        return (x - self.mean.to(x.dtype)) / self.std.to(x.dtype)
