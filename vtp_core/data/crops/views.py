"""All crops of one row of a view, written into the batch's memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from vtp_core.data.augmentation import Augmentation, Crop
from vtp_core.data.draw import generator
from vtp_core.errors import DataError
from vtp_core.recipe.tables.views import ViewConfig
from vtp_core.view import sides


def empty_crops(view: ViewConfig, names: Sequence[str], rows: int) -> dict[str, Tensor]:
    """Memory for the crops of `rows` rows: crop set -> (rows, C, 3, height, width) uint8."""
    return {
        name: torch.empty((rows, view.crops[name].count, 3, *sides(view.crop_size(name))), dtype=torch.uint8)
        for name in names
    }


def cut_crops(
    image: NDArray[numpy.uint8],
    view: ViewConfig,
    augmentation: Augmentation,
    out: Mapping[str, Tensor],
    place: int,
    *,
    seed: int,
    step: int,
    name: str,
    row: int,
) -> None:
    """Cuts all crops of one row.

    Each crop has its own generator, keyed by (seed, step, view, global row, crop): one more crop set, or one
    row less, changes no other crop.

    Args:
        image: (H, W, 3) uint8, the decoded sample.
        view: The view's table.
        augmentation: What makes its crops.
        out: Crop set -> (rows, C, 3, height, width) uint8, filled at `place`.
        place: Row within `out`.
        seed: The run's seed.
        step: Index of the step.
        name: Name of the view.
        row: Global row of the step.

    Raises:
        DataError: The augmentation did not return uint8 pixels of the crop's size.
    """
    for crops, memory in out.items():
        settings = view.crops[crops]
        for number in range(settings.count):
            rng = generator("crop", seed, step, name, row, crops, number)
            crop = Crop(name=crops, number=number, size=view.crop_size(crops), scale=settings.scale)
            pixels = augmentation(image, crop, rng)
            if pixels.shape != memory.shape[2:] or pixels.dtype != torch.uint8:
                raise DataError(
                    f"views.{name}: augmentation {augmentation.config.use} returned {tuple(pixels.shape)} "
                    f"{pixels.dtype}, expected {tuple(memory.shape[2:])} torch.uint8"
                )
            memory[place, number] = pixels
