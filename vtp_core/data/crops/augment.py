"""Augmentations of a view: a decoded image to one crop.

============  ================================================================================================
none          squashed to the size, bilinear (VTP's zero-shot evaluation)
center        centre crop of ADM (reconstruction, latents)
clip          random crop of 0.9 to 1 of the area, bicubic, no flip (open_clip; VTP)
crop          random crop of 0.08 to 1 of the area, bicubic, flip (classification, linear probe)
dino          crops of DINOv2: global 0.32 to 1, others 0.05 to 0.32 of the area; flip, colour, blur, solarise
dino_nominal  the same with the blur rates of DINOv2's configuration instead of those that its code applies
============  ================================================================================================
"""

from __future__ import annotations

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from vtp_core.data.crops import colour
from vtp_core.data.crops.geometry import centre, random_box, resize
from vtp_core.recipe.tables.views import Augment

_SCALES: dict[tuple[str, bool], tuple[float, float]] = {
    ("clip", True): (0.9, 1.0),
    ("clip", False): (0.9, 1.0),
    ("crop", True): (0.08, 1.0),
    ("crop", False): (0.08, 1.0),
    ("dino", True): (0.32, 1.0),
    ("dino", False): (0.05, 0.32),
    ("dino_nominal", True): (0.32, 1.0),
    ("dino_nominal", False): (0.05, 0.32),
}

_BLURRED = {"dino": (0.0, 0.9, 0.5), "dino_nominal": (1.0, 0.1, 0.5)}
"""Share of blurred first globals, other globals and local crops. DINOv2's and DINOv3's configurations say 1,
0.1 and 0.5, but their helper applies one minus that, so their published models saw those of `dino`."""


def crop(
    image: NDArray[numpy.uint8],
    augment: Augment,
    name: str,
    number: int,
    size: int,
    scale: tuple[float, float] | None,
    rng: numpy.random.Generator,
) -> Tensor:
    """One crop of an image.

    Args:
        image: (H, W, 3) uint8.
        augment: Which augmentation.
        name: Crop set; "global" has settings of its own in some augmentations.
        number: Which crop of the set, from 0.
        size: Side of the crop.
        scale: Smallest and largest share of the image's area; None: the augmentation's.
        rng: Source of all numbers of this crop.

    Returns:
        (3, size, size) uint8.
    """
    if augment == "none":
        return resize(image, None, (size, size), "bilinear")
    if augment == "center":
        return centre(image, size)
    height, width = image.shape[:2]
    box = random_box(height, width, scale or _SCALES[augment, name == "global"], rng)
    pixels = resize(image, box, (size, size), "bicubic")
    if augment == "clip":
        return pixels
    if rng.random() < 0.5:
        pixels = pixels.flip(-1)
    return pixels if augment == "crop" else _dino(pixels, name, number, _BLURRED[augment], rng)


def _dino(
    pixels: Tensor, name: str, number: int, rates: tuple[float, float, float], rng: numpy.random.Generator
) -> Tensor:
    """Colour changes of DINOv2; `rates` as in `_BLURRED`."""
    blurred = rates[2] if name != "global" else rates[min(number, 1)]
    solarised = 0.2 if name == "global" and number > 0 else 0.0
    chance = rng.random(4)
    factors = rng.uniform((0.6, 0.6, 0.8, -0.1), (1.4, 1.4, 1.2, 0.1)).tolist()
    sigma = float(rng.uniform(0.1, 2.0))
    order = rng.permutation(4).tolist()
    values = pixels.to(torch.float32)
    if chance[0] < 0.8:
        for operation in order:
            values = _JITTER[operation](values, factors[operation])
    if chance[1] < 0.2:
        values = colour.grey(values)
    if chance[2] < blurred:
        values = colour.blur(values, sigma)
    values = values.round_()  # the source works in 8 bit; the threshold below cuts whole numbers
    if chance[3] < solarised:
        values = colour.solarise(values)
    return values.to(torch.uint8)


_JITTER = (colour.brightness, colour.contrast, colour.saturation, colour.hue)
