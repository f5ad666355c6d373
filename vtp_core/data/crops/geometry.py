"""Crops and resizes 8-bit images.

Resizing is torch's antialiased uint8 path on a channels-last view of the array, which needs no copy: the same
algorithm as Pillow's, several times as fast.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

Filter = Literal["bilinear", "bicubic"]
_TRIES = 10
_LONGEST = 16  # longer side of what `center_crop` enlarges, in shorter sides
RATIO = (3 / 4, 4 / 3)  # width / height of parts for square crops, as in Inception and everything after it


@dataclass(frozen=True)
class Box:
    """Part of an image, in whole pixels.

    Attributes:
        top: First row.
        left: First column.
        height: Rows.
        width: Columns.
    """

    top: int
    left: int
    height: int
    width: int


def random_box(
    height: int, width: int, scale: tuple[float, float], rng: numpy.random.Generator, aspect: float = 1.0
) -> Box:
    """A random part of an image, as torchvision's RandomResizedCrop draws it.

    Ten tries of a fraction of the area (uniform) and an aspect ratio (log-uniform), then the largest central
    part with an allowed ratio.

    Args:
        height: Rows of the image.
        width: Its columns.
        scale: Smallest and largest fraction of the area.
        rng: Source of the numbers.
        aspect: Width over height of the crop; ratios of parts are relative to it.
    """
    narrowest, broadest = RATIO[0] * aspect, RATIO[1] * aspect
    numbers = rng.random(2 * _TRIES + 2).tolist()
    top, left = numbers[-2:]
    low, high = math.log(narrowest), math.log(broadest)
    for attempt in range(_TRIES):
        area = height * width * (scale[0] + (scale[1] - scale[0]) * numbers[2 * attempt])
        ratio = math.exp(low + (high - low) * numbers[2 * attempt + 1])
        columns, rows = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < columns <= width and 0 < rows <= height:
            return Box(int(top * (height - rows + 1)), int(left * (width - columns + 1)), rows, columns)
    rows = min(height, max(1, round(width / narrowest)))
    columns = min(width, max(1, round(height * broadest)))
    return Box((height - rows) // 2, (width - columns) // 2, rows, columns)


def resize(image: NDArray[numpy.uint8], box: Box | None, size: tuple[int, int], filter: Filter) -> Tensor:
    """Resizes a part of an image.

    Args:
        image: (H, W, 3) uint8.
        box: Part of the image; None: all of it.
        size: Rows and columns of the result.
        filter: Antialiased filter.

    Returns:
        (3, rows, columns) uint8; the pixels themselves if they already have the size.
    """
    if box is not None:
        image = image[box.top : box.top + box.height, box.left : box.left + box.width]
    pixels = torch.from_numpy(image).permute(2, 0, 1)
    if tuple(pixels.shape[1:]) == size:
        return pixels
    return F.interpolate(pixels[None], size=size, mode=filter, antialias=True, align_corners=False)[0]


def center_crop(image: NDArray[numpy.uint8], size: int | tuple[int, int]) -> Tensor:
    """The centre crop of ADM (Dhariwal and Nichol 2021), standard for reconstruction and generation.

    The image is halved with a box filter while it is at least twice as large as the result, resized by
    bicubic interpolation until it just covers it, and cropped to its center. A strip that would be enlarged
    is first cut to a length of 16 times what the crop needs, or it would take gigabytes.

    Args:
        image: (H, W, 3) uint8.
        size: Side of a square result, or its rows and columns.

    Returns:
        (3, rows, columns) uint8.
    """
    rows, columns = (size, size) if isinstance(size, int) else size
    image = _without_far_ends(_halved(image, rows, columns), rows, columns)
    height, width = image.shape[:2]
    factor = max(rows / height, columns / width)
    pixels = resize(image, None, (round(height * factor), round(width * factor)), "bicubic")
    top, left = (pixels.shape[1] - rows) // 2, (pixels.shape[2] - columns) // 2
    return pixels[:, top : top + rows, left : left + columns]


def shorter_side_crop(
    image: NDArray[numpy.uint8], size: int | tuple[int, int], shorter: int | None = None
) -> Tensor:
    """Resize of the shorter side by bicubic interpolation, and the centre, as torchvision's two transforms.

    Args:
        image: (H, W, 3) uint8.
        size: Side of the square result; rows and columns are refused unless they are equal.
        shorter: Shorter side after the resize; None: `size`.

    Returns:
        (3, size, size) uint8.

    Raises:
        ValueError: `size` is not square.
    """
    rows, columns = (size, size) if isinstance(size, int) else size
    if rows != columns:
        raise ValueError(f"a crop by the shorter side is square, not {rows} x {columns}")
    height, width = image.shape[:2]
    side, least = shorter or rows, min(height, width)
    pixels = resize(image, None, (side * height // least, side * width // least), "bicubic")
    top, left = (round((side - rows) / 2) for side in pixels.shape[1:])
    return pixels[:, top : top + rows, left : left + rows]


def resize_whole(image: NDArray[numpy.uint8], size: tuple[int, int], patch: int) -> Tensor:
    """All of an image, at the scale at which `center_crop` cuts it; of a square one it is the same.

    Each side becomes the nearest multiple of `patch`, which changes the proportions by less than a patch.

    Args:
        image: (H, W, 3) uint8.
        size: Rows and columns that the result covers, multiples of `patch`.
        patch: Side of a patch in pixels.

    Returns:
        (3, rows, columns) uint8.
    """
    height, width = image.shape[:2]
    factor = max(size[0] / height, size[1] / width)
    rows, columns = (max(1, round(side * factor / patch)) * patch for side in (height, width))
    return resize(_halved(image, rows, columns), None, (rows, columns), "bicubic")


def _halved(image: NDArray[numpy.uint8], rows: int, columns: int) -> NDArray[numpy.uint8]:
    """Halves an image with a box filter while it is at least twice as large as the result."""
    height, width = image.shape[:2]
    while height >= 2 * rows and width >= 2 * columns:
        height, width = height // 2, width // 2
        image = numpy.array(Image.fromarray(image).resize((width, height), Image.Resampling.BOX))
    return image


def _without_far_ends(image: NDArray[numpy.uint8], rows: int, columns: int) -> NDArray[numpy.uint8]:
    """The central part of a long image that would be enlarged; any other one as it is."""
    height, width = image.shape[:2]
    factor = max(rows / height, columns / width)
    if factor <= 1:
        return image
    tallest, widest = (max(1, round(_LONGEST * side / factor)) for side in (rows, columns))
    # Whole pixels are cut at both ends alike, so that the center stays where it is.
    top, left = max(0, height - tallest) // 2, max(0, width - widest) // 2
    return image[top : height - top, left : width - left]
