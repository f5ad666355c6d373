"""A plugin of one file: an encoder whose weights come from a file; loaded with ``--plugin``."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import vtp_core as vtp

vtp_api = 2


class LoadedConfig(vtp.ComponentConfig):
    use: str = "pretrained_encoder.loaded"
    weights: str = "random"
    """File of the weights."""


class Loaded(vtp.Encoder):
    width, patch, depth, has_cls = 8, 8, 1, False

    def __init__(self, config: LoadedConfig) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 8, 8)
        if config.weights != "random":
            self.load_state_dict(torch.load(config.weights, weights_only=True))

    def forward(
        self, images: Any, masks: Any, *, layers: Any = (), drop_path: float = 0.0
    ) -> list[vtp.Tokens]:
        found = []
        for image in images:
            maps = self.embed(image.flatten(0, 1)).unflatten(0, image.shape[:2])
            grid = (maps.shape[-2], maps.shape[-1])
            found.append(vtp.Tokens(patches=maps.flatten(3).transpose(2, 3), grid=grid))
        return found


@vtp.hookimpl
def register_encoders(register: vtp.Register) -> None:
    register(
        "loaded", "pretrained_encoder:Loaded", config="pretrained_encoder:LoadedConfig", summary="Loads."
    )
