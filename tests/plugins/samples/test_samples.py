"""The drawings in the package: whole, labelled, apart from each other, with their origin."""

from __future__ import annotations

import csv
from collections import Counter
from hashlib import blake2b
from importlib.resources import files

import pytest

from vtp_core.recipe.tables.data import DecodeLimits
from vtp_core.testing import check_source
from vtp_plugins.samples.config import SamplesConfig
from vtp_plugins.samples.source import CLASSES, Samples


def opened(split: str, caption: str = "title") -> Samples:
    return Samples(SamplesConfig(split=split, caption=caption), DecodeLimits())  # type: ignore[arg-type]


@pytest.mark.parametrize("split, count", [("train", 800), ("val", 215)])
def test_every_sample_is_whole(split: str, count: int) -> None:
    source = opened(split)
    assert len(source) == count
    labels = Counter()
    for index in range(count):
        sample = source.read(index, source.fields)
        assert sample.image is not None and sample.image.shape == (64, 64, 3)
        assert sample.text
        labels[sample.label] += 1
    assert set(labels) == set(range(len(CLASSES)))


def test_no_held_out_image_is_a_training_image() -> None:
    def hashes(split: str) -> set[bytes]:
        source = opened(split)
        images = (source.read(index, frozenset({"image"})).image for index in range(len(source)))
        return {blake2b(image.tobytes()).digest() for image in images if image is not None}

    train, val = hashes("train"), hashes("val")
    assert len(train) == 800 and len(val) == 215 and not train & val


def test_caption_with_class() -> None:
    plain, composed = opened("val"), opened("val", "title_and_class")
    for index in range(20):
        title, both = (source.read(index, frozenset({"text"})) for source in (plain, composed))
        assert title.text is not None and both.text is not None and both.label is not None
        assert both.text == f"{title.text.rstrip('. ')}. A drawing of {CLASSES[both.label]}."


def test_provenance_of_every_sample_says_public_domain() -> None:
    text = (files("vtp_plugins.samples") / "data" / "provenance.csv").read_text(encoding="utf-8")
    rows = {row["key"]: row for row in csv.DictReader(text.splitlines())}
    for split in ("train", "val"):
        source = opened(split)
        for index in range(len(source)):
            row = rows.pop(source.read(index, frozenset({"text"})).key)
            assert row["license"] == "public domain" and row["source"]
    assert not rows


def test_pixels_read_twice_are_the_same() -> None:
    source = opened("val")
    first = source.read(3, frozenset({"image"})).image
    second = opened("val").read(3, frozenset({"image"})).image
    assert first is not None and second is not None and (first == second).all()
    assert (source.read(3, frozenset({"image"})).image == second).all()


@pytest.mark.parametrize("caption", ["title", "title_and_class"])
def test_it_keeps_the_rules_of_sources(caption: str) -> None:
    check_source(opened("val", caption))
