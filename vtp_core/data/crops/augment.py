"""The core's own augmentations.

============  ================================================================================================
none          squashed to the size, bilinear (VTP's zero-shot evaluation)
center        centre crop of ADM (reconstruction, latents)
center_flip   the same, half of them flipped (generators; ADM, DiT)
clip          random crop of 0.9 to 1 of the area, bicubic, no flip (open_clip; VTP)
crop          random crop of 0.08 to 1 of the area, bicubic, flip (classification, linear probe)
dino          crops of DINOv2: global 0.32 to 1, others 0.05 to 0.32 of the area; flip, color, blur, solarize
dino_nominal  the same with the blur rates of DINOv2's configuration instead of those that its code applies
============  ================================================================================================
"""

from __future__ import annotations

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from vtp_core.data.augmentation import Augmentation, Crop
from vtp_core.data.crops import color
from vtp_core.data.crops.geometry import center_crop, random_box, resize
from vtp_core.view import sides

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
"""Fraction of blurred first globals, other globals and local crops. DINOv2's and DINOv3's configurations say
1, 0.1 and 0.5, but their code applies one minus that, so their published models saw those of `dino`."""


class BuiltInAugmentation(Augmentation):
    """An augmentation of the core, by its name in the table above."""

    def __call__(self, image: NDArray[numpy.uint8], crop: Crop, rng: numpy.random.Generator) -> Tensor:
        """See `Augmentation`."""
        augment, size = self.config.use, sides(crop.size)
        if augment == "none":
            return resize(image, None, size, "bilinear")
        if augment == "center":
            return center_crop(image, size)
        if augment == "center_flip":
            pixels = center_crop(image, size)
            return pixels.flip(-1) if rng.random() < 0.5 else pixels
        height, width = image.shape[:2]
        scale = crop.scale or _SCALES[augment, crop.name == "global"]
        box = random_box(height, width, scale, rng, size[1] / size[0])
        pixels = resize(image, box, size, "bicubic")
        if augment == "clip":
            return pixels
        if rng.random() < 0.5:
            pixels = pixels.flip(-1)
        return pixels if augment == "crop" else _dino(pixels, crop, _BLURRED[augment], rng)


def _dino(
    pixels: Tensor, crop: Crop, rates: tuple[float, float, float], rng: numpy.random.Generator
) -> Tensor:
    """Colour operations of DINOv2; `rates` as in `_BLURRED`."""
    blurred = rates[2] if crop.name != "global" else rates[min(crop.number, 1)]
    solarized = 0.2 if crop.name == "global" and crop.number > 0 else 0.0
    chance = rng.random(4)
    factors = rng.uniform((0.6, 0.6, 0.8, -0.1), (1.4, 1.4, 1.2, 0.1)).tolist()
    sigma = float(rng.uniform(0.1, 2.0))
    order = rng.permutation(4).tolist()
    values = pixels.to(torch.float32)
    if chance[0] < 0.8:
        for operation in order:
            values = _JITTER[operation](values, factors[operation])
    if chance[1] < 0.2:
        values = color.grayscale(values)
    if chance[2] < blurred:
        values = color.blur(values, sigma)
    values = values.round_()  # DINOv2 works in 8 bit; the threshold below compares whole numbers
    if chance[3] < solarized:
        values = color.solarize(values)
    return values.to(torch.uint8)


_JITTER = (color.brightness, color.contrast, color.saturation, color.hue)
