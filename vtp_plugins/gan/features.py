"""The frozen feature network of a critic."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from vtp_core.errors import UsageError
from vtp_plugins.gan.config import DinoConfig
from vtp_plugins.pretrained.loading import load_weights
from vtp_plugins.pretrained.lookup import RANDOM, find_weights
from vtp_plugins.pretrained.networks import Frozen, resized, timm_network

MANY = 6
"""Of a network with more stages than this, four evenly spaced ones are used."""


class FrozenFeatures(Frozen):
    """A timm network that is never trained; gradients reach its input.

    Attributes:
        origin: Where its weights come from.
        side: Side in pixels to which images are resized; None: not at all.
        taps: Stages or blocks whose features are used.
        channels: Channels of each.

    Raises:
        UsageError: timm has no such network, it gives no feature maps, or its weights are not found.
    """

    def __init__(self, config: DinoConfig) -> None:
        super().__init__()
        name = config.network.removeprefix("timm:")
        found = None if config.weights == RANDOM else find_weights(config.network, config.weights)
        self.origin = RANDOM if found is None else found.origin
        self.network, self.side = _build(name, config.size)
        if found is not None:
            load_weights(self.network, found)
        defaults: dict[str, Any] = self.network.pretrained_cfg  # type: ignore[assignment]
        self.register_buffer("mean", torch.tensor(defaults["mean"]).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(defaults["std"]).view(3, 1, 1))
        self.requires_grad_(False).eval()
        widths = self._widths()
        self.taps = _choose_taps(name, config.taps, len(widths))
        self.channels = tuple(widths[tap] for tap in self.taps)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Maps (B, C_i, h_i, w_i) of images (B, 3, H, W) in [-1, 1]."""
        pixels = ((resized(image, self.side) + 1) / 2 - self.get_buffer("mean")) / self.get_buffer("std")
        maps: Any = self.network.forward_intermediates
        return tuple(maps(pixels, indices=list(self.taps), stop_early=True, intermediates_only=True))

    def _widths(self) -> list[int]:
        """Channels of every stage, found on the meta device."""
        network: Any = copy.deepcopy(self.network).to("meta")
        side = self.side or 64
        maps = network.forward_intermediates(
            torch.empty(1, 3, side, side, device="meta"), intermediates_only=True
        )
        return [each.shape[1] for each in maps]


def _build(name: str, size: int | None) -> tuple[nn.Module, int | None]:
    """The network and the image side that it needs; None: any."""
    import timm

    defaults = timm.get_pretrained_cfg(name)
    if defaults is None or not defaults.fixed_input_size:
        return timm_network(name), size
    size = size or int(defaults.input_size[-1])
    return timm_network(name, {"num_classes": 0, "img_size": size}), size


def _choose_taps(name: str, taps: tuple[int, ...] | None, stages: int) -> tuple[int, ...]:
    if taps is None:
        quarters = tuple((quarter + 1) * stages // 4 - 1 for quarter in range(4))
        return tuple(range(stages)) if stages <= MANY else quarters
    if not taps or max(taps) >= stages or len(set(taps)) < len(taps):
        raise UsageError(f"critic taps {list(taps)}: name distinct stages of timm:{name}, 0 to {stages - 1}")
    return tuple(sorted(taps))
