"""A sample to its share of a view: all crops of one row, written into the batch's memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from vtp_core.data.crops.augment import crop
from vtp_core.data.draw import generator
from vtp_core.recipe.tables.views import ViewConfig


def empty_crops(view: ViewConfig, names: Sequence[str], rows: int) -> dict[str, Tensor]:
    """Memory for the crops of `rows` rows: crop set -> (rows, C, 3, size, size) uint8."""
    return {
        name: torch.empty(
            (rows, view.crops[name].count, 3, view.crop_size(name), view.crop_size(name)), dtype=torch.uint8
        )
        for name in names
    }


def cut_crops(
    image: NDArray[numpy.uint8],
    view: ViewConfig,
    out: Mapping[str, Tensor],
    place: int,
    *,
    seed: int,
    step: int,
    name: str,
    row: int,
) -> None:
    """Cuts all crops of one row.

    Each crop draws from a generator of its own, keyed by (seed, step, view, global row, crop): asking for one
    more crop set, or one row less, changes no other crop.

    Args:
        image: (H, W, 3) uint8, the decoded sample.
        view: How the view crops and augments.
        out: Crop set -> (rows, C, 3, size, size) uint8, filled at `place`.
        place: Row within `out`.
        seed: The run's seed.
        step: Index of the step.
        name: Name of the view.
        row: Global row of the step.
    """
    for crops, memory in out.items():
        settings = view.crops[crops]
        for number in range(settings.count):
            rng = generator("crop", seed, step, name, row, crops, number)
            size = view.crop_size(crops)
            memory[place, number] = crop(image, view.augment, crops, number, size, settings.scale, rng)
