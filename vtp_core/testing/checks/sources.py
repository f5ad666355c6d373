"""Checks that any source has to pass; two lines in a plugin's own tests."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy

from vtp_core.data.source import BadSample, Sample, SizedSource, Source
from vtp_core.testing.checks.parts import expect

FIELDS = frozenset({"image", "text", "label", "latent"})


def check_source(source: Source, *, samples: int = 8) -> None:
    """Reads the first, last and some other samples of an opened source.

    Fields are those that it declares; a sample has the fields that were asked, of the documented types, or is
    a `BadSample`; it is the same whenever, in whichever order, in whichever thread and in a pickled copy.

    Args:
        source: The source, opened on a few good samples.
        samples: Samples to read.

    Raises:
        ConformanceError: A rule is broken.
    """
    count = len(source)
    expect(count > 0, "it is empty; opening an empty source raises DataError")
    expect(
        bool(source.fields) and source.fields <= FIELDS, f"fields {set(source.fields)}: of {sorted(FIELDS)}"
    )
    expect(isinstance(source.classes, (list, tuple)), "classes is no list or tuple of names")
    indices = sorted({*range(min(samples, count)), count - 1})
    first = {index: _read(source, index, source.fields) for index in indices}
    good = {index: sample for index, sample in first.items() if sample is not None}
    expect(bool(good), "every sample is bad; open it on some that are not")
    for index, sample in good.items():
        _check_sample(source, index, sample)
        if isinstance(source, SizedSource):
            size = source.image_bytes(index)
            expect(size is None or size > 0, f"image_bytes({index}) is {size}: a number of bytes, or None")
    keys = [sample.key for sample in good.values()]
    expect(len(set(keys)) == len(keys), "two samples have one key")
    with ThreadPoolExecutor(2) as pool:
        threads = dict(
            zip(indices, pool.map(lambda i: _read(source, i, source.fields), indices), strict=True)
        )
    copy: Source = pickle.loads(pickle.dumps(source))
    for index in reversed(indices):
        for what, found in (
            ("again", _read(source, index, source.fields)),
            ("in a thread", threads[index]),
            ("from a pickled copy", _read(copy, index, source.fields)),
        ):
            expect(_same(first[index], found), f"sample {index} read {what} differs: a source keeps no state")


def _read(source: Source, index: int, fields: frozenset[str]) -> Sample | None:
    try:
        return source.read(index, fields)
    except BadSample:
        return None


def _check_sample(source: Source, index: int, sample: Sample) -> None:
    expect(bool(sample.key), f"sample {index} has no key")
    if sample.image is not None:
        image = sample.image
        right = image.dtype == numpy.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size > 0
        expect(right, f"image {image.shape} {image.dtype}: expected (H, W, 3) uint8")
    if sample.text is not None:
        expect(bool(sample.text.strip()), f"sample {index} has an empty text")
    if sample.label is not None:
        inside = not source.classes or 0 <= sample.label < len(source.classes)
        expect(inside, f"label {sample.label} of {len(source.classes)} classes")
    if sample.latent is not None:
        latent = sample.latent
        right = latent.dtype == numpy.float32 and latent.ndim == 3
        expect(right, f"latent {latent.shape} {latent.dtype}: expected (d, h, w) float32")
    for field in source.fields:
        expect(getattr(sample, field) is not None, f"sample {index} was asked for {field!r} and has none")
        alone = source.read(index, frozenset({field}))
        same = numpy.array_equal(getattr(alone, field), getattr(sample, field))
        expect(same, f"{field!r} of sample {index} differs when it alone is asked for")


def _same(left: Sample | None, right: Sample | None) -> bool:
    if left is None or right is None:
        return left is right
    return left.key == right.key and all(
        numpy.array_equal(getattr(left, field), getattr(right, field)) for field in FIELDS
    )
