"""Pixel losses between a view's first global crop and its reconstruction."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from vtp_core.features import Losses
from vtp_core.objective import Objective
from vtp_core.parameters import Dims
from vtp_core.pixels import UNIT, ValueRange, convert
from vtp_core.step import Step
from vtp_plugins.reconstruction.config import ReconstructionConfig
from vtp_plugins.reconstruction.loss import absolute_error, signal_to_noise, squared_error


class _PixelLoss(Objective):
    config: ReconstructionConfig

    def __init__(self, config: ReconstructionConfig, dims: Dims) -> None:
        super().__init__(config, dims)
        self.value_range = cast(ValueRange, dims.value_range)
        self.space: ValueRange = UNIT if config.space == "unit" else "imagenet"

    def error(self, image: Tensor, target: Tensor) -> Tensor:
        """Error of each row, (B,)."""
        raise NotImplementedError

    def forward(self, step: Step) -> Losses:
        """The mean error; logged: PSNR in dB."""
        target = step.batch(self.config.view).image
        image = step.reconstruct(self.config.view).image
        wide = image.to(torch.promote_types(image.dtype, torch.float32))  # a bfloat16 difference has 8 bits
        rows = self.error(
            convert(wide, self.value_range, self.space), convert(target, "imagenet", self.space)
        )
        with torch.no_grad():
            unit = convert(wide, self.value_range, UNIT)
            psnr = signal_to_noise(unit, convert(target, "imagenet", UNIT))
        return Losses(terms={"pixels": step.mean(rows)}, report={"psnr": step.mean(psnr)})


class L1(_PixelLoss):
    """Mean absolute pixel error (VTP, section 3.1)."""

    def error(self, image: Tensor, target: Tensor) -> Tensor:
        """Mean absolute error of each row."""
        return absolute_error(image, target)


class L2(_PixelLoss):
    """Mean squared pixel error."""

    def error(self, image: Tensor, target: Tensor) -> Tensor:
        """Mean squared error of each row."""
        return squared_error(image, target)
