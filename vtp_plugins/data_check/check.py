"""The work of ``vtp data check``: reads every sample and says what is wrong with it. Imports no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy

from vtp_core.data.completeness import lost
from vtp_core.data.source import BadSample, FaultySource, Sample, Source
from vtp_core.evaluation.progress import Show, silent

_SHOWN = 10


@dataclass
class CheckReport:
    """What a source holds.

    Attributes:
        samples: Samples of the source.
        read: Samples that were read: all, or `limit`.
        usable: Samples with an image or latent that can be used; missing captions or labels don't count
            against it.
        fields: Field -> samples that have it undamaged.
        classes: Class name or index -> samples.
        sizes: Smallest and largest width and height, (width, height) each; None without images.
        captions: Characters of captions: smallest, median and largest; None without captions.
        equal_captions: Samples whose caption an earlier sample has too.
        bad: Reason -> samples.
        first_bad: The first bad samples, one line each.
        duplicate_keys: Samples with the key of an earlier one.
        duplicate_images: Samples with the pixels of an earlier one.
        problems: What was found while opening the source -> where.
        lost: Parts that can't be read whole, one line each.
    """

    samples: int
    read: int = 0
    usable: int = 0
    fields: Counter[str] = field(default_factory=Counter)
    classes: Counter[str] = field(default_factory=Counter)
    sizes: tuple[tuple[int, int], tuple[int, int]] | None = None
    captions: tuple[int, int, int] | None = None
    equal_captions: int = 0
    bad: Counter[str] = field(default_factory=Counter)
    first_bad: list[str] = field(default_factory=list)
    duplicate_keys: int = 0
    duplicate_images: int = 0
    problems: Mapping[str, Sequence[str]] = field(default_factory=dict)
    lost: Sequence[str] = ()

    def as_dict(self) -> dict[str, object]:
        """All of it for JSON."""
        return {
            name: dict(value) if isinstance(value, Mapping) else value for name, value in vars(self).items()
        }


def _shown(total: int, show: Show) -> Iterator[int]:
    with show("reading", total) as advance:
        for index in range(total):
            yield index
            advance(1)


def check_source(source: Source, limit: int | None = None, show: Show = silent) -> CheckReport:
    """Reads samples in order, each field by itself, so that one missing caption doesn't hide a good image.

    Args:
        source: What to read.
        limit: At most this many samples; None: all.
        show: Shows the progress.

    Raises:
        DataError: The source can't be read any more, or a label is outside of its classes.
    """
    found_lost = lost(source)
    report = CheckReport(samples=len(source), lost=[*found_lost.parts, *found_lost.allowed])
    if isinstance(source, FaultySource):
        report.problems = source.problems()
    keys: set[str] = set()
    images: set[bytes] = set()
    captions: set[bytes] = set()
    lengths: list[int] = []
    sides: list[tuple[int, int]] = []
    total = len(source) if limit is None else min(limit, len(source))
    for index in _shown(total, show):
        report.read += 1
        key, found = _fields(source, index, report)
        report.duplicate_keys += key in keys
        keys.add(key)
        report.usable += found.image is not None or found.latent is not None
        if found.image is not None:
            sides.append((found.image.shape[1], found.image.shape[0]))
            digest = blake2b(
                repr(found.image.shape).encode() + found.image.tobytes(), digest_size=16
            ).digest()
            report.duplicate_images += digest in images
            images.add(digest)
        if found.text is not None:
            lengths.append(len(found.text))
            digest = blake2b(found.text.encode(errors="replace"), digest_size=16).digest()
            report.equal_captions += digest in captions
            captions.add(digest)
        if found.label is not None:
            name = source.classes[found.label] if found.label < len(source.classes) else str(found.label)
            report.classes[name] += 1
    if sides:
        widths, heights = zip(*sides, strict=True)
        report.sizes = (min(widths), min(heights)), (max(widths), max(heights))
    if lengths:
        report.captions = min(lengths), int(numpy.median(lengths)), max(lengths)
    return report


def _fields(source: Source, index: int, report: CheckReport) -> tuple[str, Sample]:
    """Key and undamaged fields of one sample."""
    values: dict[str, object] = {}
    key = ""
    for name in sorted(source.fields):
        try:
            sample = source.read(index, frozenset({name}))
        except BadSample as error:
            key = error.key
            report.bad[error.reason] += 1
            if len(report.first_bad) < _SHOWN:
                report.first_bad.append(str(error))
        else:
            key = sample.key
            values[name] = getattr(sample, name)
            report.fields[name] += 1
    return key, Sample(key=key, **values)  # type: ignore[arg-type]


def summary(report: CheckReport) -> list[str]:
    """The report as lines for a terminal."""
    lines = [
        f"samples  {report.samples}" + ("" if report.read == report.samples else f" ({report.read} read)")
    ]
    lines.append(f"usable   {report.usable} of {report.read}")
    lines += [f"field    {name}: {count} of {report.read}" for name, count in sorted(report.fields.items())]
    if report.sizes:
        (width, height), (most_width, most_height) = report.sizes
        lines.append(f"size     {width}x{height} to {most_width}x{most_height} pixels (each side by itself)")
    if report.captions:
        least, median, most = report.captions
        lines.append(
            f"caption  {least} to {most} characters, median {median}; {report.equal_captions} repeated"
        )
    if report.classes:
        shown = ", ".join(f"{name} {count}" for name, count in report.classes.most_common(20))
        more = f" and {len(report.classes) - 20} more" if len(report.classes) > 20 else ""
        lines.append(f"classes  {len(report.classes)}: {shown}{more}")
    if report.duplicate_keys:
        lines.append(f"double   {report.duplicate_keys} samples have the key of an earlier one")
    if report.duplicate_images:
        lines.append(f"double   {report.duplicate_images} samples have the pixels of an earlier one")
    lines += [f"lost     {line}" for line in report.lost[:_SHOWN]]
    if len(report.lost) > _SHOWN:
        lines.append(f"lost     and {len(report.lost) - _SHOWN} more parts")
    for what, places in report.problems.items():
        lines.append(f"found    {what}: {len(places)}, the first: {places[0]}")
    lines += [f"bad      {reason}: {count}" for reason, count in report.bad.most_common()]
    lines += [f"         {line}" for line in report.first_bad]
    return lines
