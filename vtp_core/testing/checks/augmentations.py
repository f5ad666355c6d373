"""Checks that any augmentation has to pass; three lines in a plugin's own tests."""

from __future__ import annotations

import pickle
import random

import numpy
import torch
from torch import Tensor

from vtp_core.config import AugmentationConfig
from vtp_core.data.augmentation import Augmentation, Crop
from vtp_core.data.draw import generator
from vtp_core.testing.errors import ConformanceError
from vtp_core.view import Size, sides

_SHAPES = ((64, 64), (41, 90), (8, 300), (32, 32))


def check_augmentation(
    target: type[Augmentation], config: AugmentationConfig, *, size: Size = 32, seeds: int = 8
) -> None:
    """Checks an augmentation on images of noise of several shapes.

    Crops are (3, height, width) uint8; equal random numbers give equal crops, in a pickled copy too, whatever
    was cut before and whatever the states of the global generators of Python, numpy and torch; these
    generators and the image stay as they are.

    Args:
        target: The augmentation's class.
        config: Its table.
        size: Of the crops: a side, or height and width.
        seeds: Crops of each image and set.

    Raises:
        ConformanceError: A rule is broken.
    """
    states = random.getstate(), numpy.random.get_state(), torch.get_rng_state()
    try:
        _check(target(config), size, seeds)
    finally:
        random.setstate(states[0])
        numpy.random.set_state(states[1])
        torch.set_rng_state(states[2])


def _check(augmentation: Augmentation, size: Size, seeds: int) -> None:
    copy = pickle.loads(pickle.dumps(augmentation))
    for shape in _SHAPES:
        image = generator("check", *shape).integers(0, 256, (*shape, 3), dtype=numpy.uint8)
        for crop in (Crop(name=name, number=1, size=size) for name in ("global", "local")):
            first = [_made(augmentation, image, crop, seed, 0) for seed in range(seeds)]
            for seed in reversed(range(seeds)):
                for what, other in (("called again", augmentation), ("pickled", copy)):
                    again = _made(other, image, crop, seed, 1)
                    if not torch.equal(first[seed], again):
                        raise ConformanceError(
                            f"{what} with the same image, crop and random numbers, it gives another crop of "
                            f"{shape[0]} x {shape[1]} pixels: it must draw from `rng` alone and keep no state"
                        )


def _made(augmentation: Augmentation, image: numpy.ndarray, crop: Crop, seed: int, globally: int) -> Tensor:
    """One crop, with the global generators in a state of its own; they and the image must not change."""
    random.seed(globally)
    numpy.random.seed(globally)
    torch.manual_seed(globally)
    before, states = image.copy(), _states()
    pixels = augmentation(image, crop, generator("crop", seed))
    if tuple(pixels.shape) != (3, *sides(crop.size)) or pixels.dtype != torch.uint8:
        raise ConformanceError(
            f"returned {tuple(pixels.shape)} {pixels.dtype}, expected {(3, *sides(crop.size))} torch.uint8"
        )
    if not numpy.array_equal(image, before):
        raise ConformanceError("it changed the image, which other crops and views read too")
    if states != _states():
        raise ConformanceError(
            "it drew from a global generator; draw from `rng`, or seed torch from it under "
            "torch.random.fork_rng"
        )
    return pixels.clone()


def _states() -> tuple[object, ...]:
    return random.getstate(), pickle.dumps(numpy.random.get_state()), torch.get_rng_state().tolist()
