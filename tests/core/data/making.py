"""Images, shards and a source made for tests."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy
from PIL import Image

from vtp_core.data.source import BadSample, Sample


def noise(height: int = 24, width: int = 24, seed: int = 0) -> numpy.ndarray:
    """Random pixels (height, width, 3) uint8."""
    return numpy.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=numpy.uint8)


def encoded(image: numpy.ndarray | Image.Image, format: str = "PNG", **options: object) -> bytes:
    """An image file."""
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    memory = io.BytesIO()
    picture.save(memory, format, **options)
    return memory.getvalue()


def write_tar(path: Path, members: Iterable[tuple[str, bytes]], format: int = tarfile.USTAR_FORMAT) -> Path:
    """A tar file of the members in their order."""
    with tarfile.open(path, "w", format=format) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def samples(count: int, start: int = 0) -> list[tuple[str, bytes]]:
    """Members of whole samples: image, caption, class."""
    members = []
    for index in range(start, start + count):
        key = f"{index:05}"
        members += [
            (f"{key}.png", encoded(noise(seed=index))),
            (f"{key}.txt", f"caption {index}".encode()),
            (f"{key}.cls", str(index % 3).encode()),
        ]
    return members


@dataclass
class DrawnSource:
    """A source of random images in memory; some of them bad."""

    count: int = 50
    fields: frozenset[str] = frozenset({"image", "text", "label"})
    classes: tuple[str, ...] = ("even", "odd")
    bad: Mapping[int, str] = field(default_factory=dict)
    uncaptioned: frozenset[int] = frozenset()
    side: int = 24

    def __len__(self) -> int:
        return self.count

    def read(self, index: int, fields: frozenset[str]) -> Sample:
        if index in self.bad:
            raise BadSample(f"s{index}", self.bad[index], "made so")
        if "text" in fields and index in self.uncaptioned:
            raise BadSample(f"s{index}", "no caption")
        image = noise(self.side, self.side, index) if "image" in fields else None
        return Sample(key=f"s{index}", image=image, text=f"caption {index}", label=index % 2)
