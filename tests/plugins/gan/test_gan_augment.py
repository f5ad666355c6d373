"""DiffAug against plain loops; its randomness is the numbers that it is given."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vtp_plugins.gan.augment import CUTOUT, DRAWS, SHIFT, augment

KINDS = ("color", "translation", "cutout")


def _image(rows: int = 3, side: int = 16, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    image = torch.rand(rows, 3, side, side, generator=rng, dtype=torch.float64) * 2 - 1
    return image, torch.rand(rows, DRAWS, generator=rng, dtype=torch.float64)


def test_gradients_reach_the_image() -> None:
    image, draws = _image(rows=1, side=5)
    image.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: augment(x, draws, KINDS), (image,))


def test_the_middle_of_all_draws_leaves_colours_and_places_as_they_are() -> None:
    image, _ = _image()
    middle = torch.full((3, DRAWS), 0.5, dtype=torch.float64)
    torch.testing.assert_close(augment(image, middle, ("color", "translation")), image)


def test_colour_equals_the_published_steps() -> None:
    image, draws = _image()
    for row, (brightness, saturation, contrast) in enumerate(draws[:, :3].tolist()):
        x = image[row] + (brightness - 0.5)
        grey = x.mean(0, keepdim=True)
        x = grey + (x - grey) * saturation * 2
        x = x.mean() + (x - x.mean()) * (contrast + 0.5)
        torch.testing.assert_close(augment(image, draws, ("color",))[row], x)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), height=st.integers(3, 19), width=st.integers(3, 19))
def test_translation_and_cutout_equal_plain_loops(seed: int, height: int, width: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    image = torch.rand(2, 1, height, width, generator=rng).expand(-1, 3, -1, -1)
    draws = torch.rand(2, DRAWS, generator=rng)
    moved, cut = augment(image, draws, ("translation",)), augment(image, draws, ("cutout",))
    for row in range(2):
        down, right = (
            math.floor(draws[row, 3 + i].item() * (2 * round(SHIFT * side) + 1)) - round(SHIFT * side)
            for i, side in enumerate((height, width))
        )
        centre = [math.floor(draws[row, 5 + i].item() * side) for i, side in enumerate((height, width))]
        for y in range(height):
            for x in range(width):
                inside = 0 <= y - down < height and 0 <= x - right < width
                assert moved[row, 0, y, x] == (image[row, 0, y - down, x - right] if inside else 0)
                hole = abs(y - centre[0]) <= CUTOUT * height / 2 and abs(x - centre[1]) <= CUTOUT * width / 2
                assert cut[row, 0, y, x] == (0 if hole else image[row, 0, y, x])


def test_each_row_has_its_own_numbers_and_the_global_generator_none() -> None:
    image, draws = _image()
    whole = augment(image, draws, KINDS)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    torch.testing.assert_close(augment(image[1:2], draws[1:2], KINDS), whole[1:2], rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(augment(image, draws.flip(0), KINDS), whole)


def test_an_unknown_kind_is_refused() -> None:
    image, draws = _image()
    with pytest.raises(ValueError, match="unknown augmentation 'hue'"):
        augment(image, draws, ("hue",))
