"""Drawn pictures whose caption and class hold by construction: data for tests, planning and examples.

A picture is a pure function of (index, size, seed). Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Coordinates = NDArray[np.float64]

SHAPES: dict[str, Callable[[Coordinates, Coordinates], NDArray[np.bool_]]] = {
    "circle": lambda x, y: x**2 + y**2 < 1,
    "cross": lambda x, y: (np.minimum(np.abs(x), np.abs(y)) < 0.35) & (np.maximum(np.abs(x), np.abs(y)) < 1),
    "diamond": lambda x, y: np.abs(x) + np.abs(y) < 1,
    "ring": lambda x, y: (x**2 + y**2 < 1) & (x**2 + y**2 > 0.3),
    "square": lambda x, y: np.maximum(np.abs(x), np.abs(y)) < 0.8,
    "triangle": lambda x, y: (y < 0.8) & (y > 2 * np.abs(x) - 1),
}
"""Name -> whether a point (x right, y down, shape within [-1, 1]) lies inside."""

COLORS: dict[str, tuple[int, int, int]] = {
    "black": (20, 20, 20),
    "blue": (30, 70, 210),
    "green": (30, 150, 60),
    "orange": (245, 140, 20),
    "purple": (130, 50, 170),
    "red": (215, 30, 40),
    "white": (245, 245, 245),
    "yellow": (250, 215, 40),
}
"""Name -> 8-bit RGB."""

CLASSES = tuple(SHAPES)


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """One drawn picture.

    Attributes:
        image: (size, size, 3) uint8 RGB.
        caption: Such as ``"a red ring on a white background"``.
        label: Index into `CLASSES`.
    """

    image: NDArray[np.uint8]
    caption: str
    label: int


def draw(index: int, *, size: int = 64, seed: int = 0, crop: int = 0) -> Drawing:
    """Draws picture `index`: classes in turn; colors, place and extent at random.

    Args:
        index: Which picture; its class is ``index % len(CLASSES)``.
        size: Side in pixels, at least 8.
        seed: Another seed gives another set of pictures.
        crop: Another place and extent of the same shape in the same colors, as an augmentation would give.
    """
    if size < 8:
        raise ValueError(f"size must be at least 8 pixels, got {size}")
    label = index % len(CLASSES)
    rng = np.random.default_rng((seed, index))
    front, back = rng.choice(len(COLORS), 2, replace=False)
    place = np.random.default_rng((seed, index, crop))
    radius = place.uniform(0.25, 0.45) * size
    center = place.uniform(radius, size - radius, 2)
    rows, columns = np.mgrid[0:size, 0:size] + 0.5
    inside = SHAPES[CLASSES[label]]((columns - center[0]) / radius, (rows - center[1]) / radius)
    colors = np.array(list(COLORS.values()), dtype=np.uint8)
    names = list(COLORS)
    return Drawing(
        image=np.where(inside[..., None], colors[front], colors[back]).astype(np.uint8),
        caption=f"a {names[front]} {CLASSES[label]} on a {names[back]} background",
        label=label,
    )
