"""Drawn pictures show what their caption says."""

from __future__ import annotations

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtp_core.testing import ShapesSource, draw
from vtp_core.testing.shapes import CLASSES, COLORS


@given(
    index=st.integers(0, 10**6), size=st.integers(16, 48), seed=st.integers(0, 100), crop=st.integers(0, 5)
)
def test_colours_and_class_are_those_of_the_caption(index: int, size: int, seed: int, crop: int) -> None:
    drawing = draw(index, size=size, seed=seed, crop=crop)
    _, front, shape, _, _, back, _ = drawing.caption.split()
    assert shape == CLASSES[drawing.label] == CLASSES[index % len(CLASSES)]
    shown = {tuple(int(v) for v in colour) for colour in drawing.image.reshape(-1, 3)}
    assert shown == {COLORS[front], COLORS[back]}
    corner = tuple(int(v) for v in drawing.image[0, 0])
    assert corner == COLORS[back]


@given(index=st.integers(0, 1000), seed=st.integers(0, 3))
def test_a_picture_is_a_pure_function_of_its_arguments(index: int, seed: int) -> None:
    first, other = draw(index, seed=seed), draw(index, seed=seed)
    assert numpy.array_equal(first.image, other.image) and first.caption == other.caption
    crop = draw(index, seed=seed, crop=1)
    assert crop.caption == first.caption and not numpy.array_equal(crop.image, first.image)


def test_too_small_a_picture_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 8 pixels"):
        draw(0, size=7)


def test_the_source_reads_the_asked_fields_only() -> None:
    source = ShapesSource(5, size=16)
    sample = source.read(4, frozenset({"text", "label"}))
    assert sample.image is None and sample.label == 4 and CLASSES[4] in str(sample.text)
    image = source.read(4, frozenset({"image"})).image
    assert image is not None and numpy.array_equal(image, draw(4, size=16).image)
    with pytest.raises(IndexError):
        source.read(5, frozenset({"image"}))
