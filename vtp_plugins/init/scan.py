"""Reads samples of a source and says what they are. Imports no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from time import perf_counter

from vtp_core.data.part import place
from vtp_core.data.source import BadSample, Source

WHOLE = 2000  # a source of at most so many samples is read whole
_SPREAD = 1000  # samples of a larger one, besides those that are held out
_FRACTIONS = (0.1, 0.2, 0.3, 0.5)


@dataclass
class Findings:
    """What is in a source.

    Attributes:
        total: Samples of the source.
        classes: Class names, if it has them.
        read: Samples that were read.
        sides: (width, height) of each image.
        bad: Key -> why its image can't be used.
        uncaptioned: Keys without a caption, in a source that has captions.
        captions: Digests of the captions -> samples.
        labels: Class index -> samples.
        copies: Samples with the pixels of an earlier one.
        seconds: Time that reading one image took.
        held_out: Fraction of the samples to hold out; None: another source is.
    """

    total: int
    classes: Sequence[str] = ()
    read: int = 0
    sides: list[tuple[int, int]] = field(default_factory=list)
    bad: dict[str, str] = field(default_factory=dict)
    uncaptioned: list[str] = field(default_factory=list)
    captions: Counter[bytes] = field(default_factory=Counter)
    labels: Counter[int] = field(default_factory=Counter)
    copies: int = 0
    seconds: float = 0.0
    held_out: float | None = None

    @property
    def dropped(self) -> Sequence[str]:
        """Keys to leave out for lack of a caption: those of a source in which nearly all have one."""
        return self.uncaptioned if self.captioned else ()

    @property
    def captioned(self) -> bool:
        """Whether at least 19 of 20 images have a caption."""
        count = self.captions.total()
        return count > 0 and count >= 19 * len(self.uncaptioned)

    @property
    def whole(self) -> bool:
        """Whether every sample was read."""
        return self.read == self.total


def held_out_fraction(places: Sequence[float]) -> float:
    """The fraction of samples to hold out, the last ones by place: a tenth, at most about a thousand.

    Of few samples it is more, so that at least two are held out, if possible.
    """
    if len(places) > 10_000:
        return float(f"{1000 / len(places):.1g}")
    for fraction in _FRACTIONS:
        if sum(position >= round(1 - fraction, 6) for position in places) >= 2:
            return fraction
    return _FRACTIONS[-1]


def scan(
    source: Source, *, hold_out: bool, show: Callable[[Iterable[int]], Iterable[int]] = iter
) -> Findings:
    """Reads a source: all of it, or of more than 2,000 samples the held-out ones and 1,000 others.

    Args:
        source: What to read.
        hold_out: Whether a part of it is to be held out.
        show: Wraps the indices, to show how far it is.

    Raises:
        DataError: The source can't be read any more.
    """
    found = Findings(total=len(source), classes=source.classes)
    chosen: Sequence[int] = range(len(source))
    if len(source) > WHOLE:
        places = [place(source.read(index, frozenset()).key) for index in chosen] if hold_out else []
        found.held_out = held_out_fraction(places) if hold_out else None
        bound = 1 - (found.held_out or 0.0)
        held = {index for index, position in enumerate(places) if position >= bound}
        chosen = sorted(held.union(range(0, len(source), len(source) // _SPREAD)))
    good: list[float] = []
    images: set[bytes] = set()
    for index in show(chosen):
        found.read += 1
        start = perf_counter()
        try:
            sample = source.read(index, frozenset({"image"}))
        except BadSample as error:
            found.bad[error.key] = error.reason + (f" ({error.detail})" if error.detail else "")
            continue
        found.seconds += perf_counter() - start
        assert sample.image is not None
        good.append(place(sample.key))
        found.sides.append((sample.image.shape[1], sample.image.shape[0]))
        digest = blake2b(repr(sample.image.shape).encode() + sample.image.tobytes(), digest_size=16).digest()
        found.copies += digest in images
        images.add(digest)
        if "text" in source.fields:
            try:
                text = source.read(index, frozenset({"text"})).text or ""
            except BadSample as error:
                found.uncaptioned.append(error.key)
            else:
                found.captions[blake2b(text.encode(errors="replace"), digest_size=16).digest()] += 1
        if "label" in source.fields:
            try:
                label = source.read(index, frozenset({"label"})).label
            except BadSample:
                continue
            if label is not None:
                found.labels[label] += 1
    if hold_out and found.whole:
        found.held_out = held_out_fraction(good)
    found.seconds /= max(len(found.sides), 1)
    return found
