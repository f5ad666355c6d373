"""A plugin of one file: a bottleneck that is calibrated and follows its latents; loaded with ``--plugin``."""

from __future__ import annotations

import torch
from torch import Tensor

import vtp_core as vtp

vtp_api = 2


class ShiftConfig(vtp.ComponentConfig):
    use: str = "calibrating.shift"
    channels: int = 4


class Shift(vtp.Bottleneck):
    """The first channels, centred by calibration; a buffer follows their mean."""

    calibration_rows = 20
    sample_rows = 5

    def __init__(self, config: ShiftConfig, dims: vtp.Dims) -> None:
        super().__init__()
        self.channels = config.channels
        self.scale = torch.nn.Parameter(torch.ones(config.channels))
        self.register_buffer("mean", torch.full((config.channels,), torch.nan))
        self.register_buffer("calibrations", torch.zeros(()))
        self.register_buffer("followed", torch.zeros(()))

    def forward(self, features: vtp.Features) -> vtp.Latent:
        crops = {
            name: vtp.Tokens(patches=self._latent(tokens.patches), grid=tokens.grid)
            for name, tokens in features.crops.items()
        }
        return vtp.Latent(crops=crops, tally=vtp.Tally(sums={"n": torch.ones(())}))

    def _latent(self, x: Tensor) -> Tensor:
        return (x[..., : self.channels] - self.mean) * self.scale

    def observe(self, features: vtp.Features) -> vtp.Tally:
        return vtp.Tally(moments={"x": vtp.Moments.of(features.patches[..., : self.channels])})

    def calibrate(self, tally: vtp.Tally) -> None:
        self.mean.copy_(tally.moments["x"].mean)
        self.calibrations += 1

    def after_step(self, tally: vtp.Tally, index: int) -> None:
        self.followed += 1


@vtp.hookimpl
def register_bottlenecks(register: vtp.Register) -> None:
    register("shift", "calibrating:Shift", config="calibrating:ShiftConfig", summary="Centred channels.")
