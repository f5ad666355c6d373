"""Perceptual distance between a view's first global crop and its reconstruction."""

from __future__ import annotations

from typing import cast

from torch import Tensor

from vtp_core.features import Losses
from vtp_core.objective import Objective
from vtp_core.parameters import Dims
from vtp_core.pixels import SIGNED, ValueRange, convert
from vtp_core.step import Step
from vtp_plugins.perceptual.config import PerceptualConfig
from vtp_plugins.perceptual.network import build_network
from vtp_plugins.pretrained.networks import Frozen, resized


class Comparison(Frozen):
    """Converts two images to [-1, 1] and compares them; frozen.

    Args:
        config: The objective's table.
        value_range: Range of the decoder's images.
    """

    def __init__(self, config: PerceptualConfig, value_range: ValueRange) -> None:
        super().__init__()
        self.network = build_network(config.network, config.weights)
        self.value_range, self.resize = value_range, config.resize
        self.eval()

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        """Distance of each row, (B,).

        Args:
            image: (B, 3, H, W) in the decoder's range.
            target: (B, 3, H, W) ImageNet-normalised.
        """
        image = convert(image.to(target.dtype), self.value_range, SIGNED)
        target = convert(target, "imagenet", SIGNED)
        distance: Tensor = self.network(resized(image, self.resize), resized(target, self.resize))
        return distance


class Perceptual(Objective):
    """A perceptual loss (Zhang et al. 2018; VTP uses LPIPS, section 3.1).

    The network runs through ``step.call``, so only one chunk's activations are in memory.
    """

    config: PerceptualConfig

    def __init__(self, config: PerceptualConfig, dims: Dims) -> None:
        super().__init__(config, dims)
        self.compare = Comparison(config, cast(ValueRange, dims.value_range))

    def forward(self, step: Step) -> Losses:
        """The mean distance."""
        target = step.batch(self.config.view).image
        image = step.reconstruct(self.config.view).image
        return Losses(terms={"distance": step.mean(step.call(self.compare, image, target))})
