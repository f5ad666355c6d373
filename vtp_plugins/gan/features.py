"""The frozen network whose features a critic's heads judge."""

from __future__ import annotations

import copy
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vtp_core.errors import UsageError
from vtp_plugins.gan.config import DinoConfig
from vtp_plugins.pretrained.loading import load_weights
from vtp_plugins.pretrained.lookup import RANDOM, find_weights

MANY = 6
"""A network with more stages than this is read at its four quarters."""


class FrozenFeatures(nn.Module):
    """A timm network that is always in evaluation mode and never trained; gradients reach its input.

    Attributes:
        origin: Where its weights come from.
        side: Pixels a side to which images are resized; None leaves them.
        taps: Stages or blocks that are read.
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

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode whatever is asked."""
        return super().train(False)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Maps (B, C_i, h_i, w_i) of images (B, 3, H, W) in [-1, 1]."""
        if self.side is not None and image.shape[-2:] != (self.side, self.side):
            image = F.interpolate(
                image, size=(self.side, self.side), mode="bilinear", antialias=True, align_corners=False
            )
        pixels = ((image + 1) / 2 - self.get_buffer("mean")) / self.get_buffer("std")
        maps: Any = self.network.forward_intermediates
        return tuple(maps(pixels, indices=list(self.taps), stop_early=True, intermediates_only=True))

    def _widths(self) -> list[int]:
        """Channels of every stage, without computing anything."""
        network: Any = copy.deepcopy(self.network).to("meta")
        side = self.side or 64
        maps = network.forward_intermediates(
            torch.empty(1, 3, side, side, device="meta"), intermediates_only=True
        )
        return [each.shape[1] for each in maps]


def _build(name: str, size: int | None) -> tuple[nn.Module, int | None]:
    """The network and the side of the images that it wants; None if it takes any."""
    import timm

    try:
        defaults = timm.get_pretrained_cfg(name)
        if defaults is not None and defaults.fixed_input_size:
            size = size or int(defaults.input_size[-1])
            network: nn.Module = timm.create_model(name, pretrained=False, num_classes=0, img_size=size)
        else:
            network = timm.create_model(name, pretrained=False)
    except (RuntimeError, ValueError, AssertionError) as error:
        raise UsageError(
            f"critic network timm:{name} can't be built ({error}); see `timm.list_models()`"
        ) from None
    if not hasattr(network, "forward_intermediates"):
        raise UsageError(
            f"timm's {name!r} gives no feature maps; choose a network with forward_intermediates"
        )
    return network, size


def _choose_taps(name: str, taps: tuple[int, ...] | None, stages: int) -> tuple[int, ...]:
    if taps is None:
        quarters = tuple((quarter + 1) * stages // 4 - 1 for quarter in range(4))
        return tuple(range(stages)) if stages <= MANY else quarters
    if not taps or max(taps) >= stages or len(set(taps)) < len(taps):
        raise UsageError(f"critic taps {list(taps)}: timm:{name} has stages 0 to {stages - 1}, each once")
    return tuple(sorted(taps))
