"""How the images of an evaluation become square."""

from __future__ import annotations

from collections.abc import Callable

import numpy
from numpy.typing import NDArray
from torch import Tensor

from vtp_core.data.crops.geometry import center_crop, random_box, resize, shorter_side_crop
from vtp_core.data.draw import generator
from vtp_core.evaluation.named_protocol import Preparation
from vtp_core.view import Size, sides

Cut = Callable[[NDArray[numpy.uint8], str], Tensor]
"""(H, W, 3) uint8 and the sample's key to (3, rows, columns) uint8."""

AREA = (0.08, 1.0)
"""Smallest and largest part of a random crop, as torchvision's RandomResizedCrop has them by default."""


def cutter(how: Preparation, size: Size, view: int | None = None) -> Cut:
    """What cuts each image.

    Args:
        how: Crop and its sizes.
        size: Rows and columns of the result where `how` has none of its own.
        view: Number of a random crop with a flip by chance, a pure function of it and of the sample's key;
            None: the crop of `how`.
    """
    wanted = size if how.size is None else how.size
    if view is not None:
        return lambda image, key: _random(image, sides(wanted), generator("evaluation", view, key))
    if how.crop == "adm":
        return lambda image, key: center_crop(image, wanted)
    if how.crop == "squash":
        return lambda image, key: resize(image, None, sides(wanted), "bilinear")
    return lambda image, key: shorter_side_crop(image, wanted, how.shorter)


def _random(image: NDArray[numpy.uint8], size: tuple[int, int], rng: numpy.random.Generator) -> Tensor:
    box = random_box(image.shape[0], image.shape[1], AREA, rng, size[1] / size[0])
    pixels = resize(image, box, size, "bicubic")
    return pixels.flip(2) if rng.random() < 0.5 else pixels
