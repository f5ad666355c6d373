"""The source interface: where samples come from. Imports no torch.

A source is map-style: it has a length and reads any sample by index, in any process. The loader shuffles,
distributes samples over ranks, cuts crops and replaces bad samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One sample; fields that were not requested may be None.

    Attributes:
        key: Name of the sample, unique within its shard or folder. It can always be written as UTF-8: bytes
            of a file name that are not are escapes, and a lone surrogate of `text` is a question mark.
        image: (H, W, 3) uint8 RGB, as large as stored, orientation applied.
        text: Caption, not empty.
        label: Class index.
        latent: Cached latent (d, h, w) float32.
    """

    key: str
    image: NDArray[numpy.uint8] | None = None
    text: str | None = None
    label: int | None = None
    latent: NDArray[numpy.float32] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", as_utf8(self.key))
        if self.text is not None and not self.text.isascii():
            object.__setattr__(self, "text", self.text.encode(errors="replace").decode())


def as_utf8(name: str) -> str:
    """A name whose lone surrogates, as of a file name in Latin-1, are escapes: it can be written anywhere."""
    return name if name.isascii() else name.encode(errors="backslashreplace").decode()


class BadSample(Exception):
    """A sample that can't be used: the loader counts it, logs it and reads another one.

    Args:
        key: Name of the sample.
        reason: A short text from a small set, by which samples are counted ("truncated image", "no caption").
        detail: What exactly is wrong.
    """

    def __init__(self, key: str, reason: str, detail: str = "") -> None:
        super().__init__(key, reason, detail)
        self.key = as_utf8(key)
        self.reason = reason
        self.detail = as_utf8(detail)

    def __str__(self) -> str:
        return f"{self.key}: {self.reason}" + (f" ({self.detail})" if self.detail else "")


class Source(Protocol):
    """A collection of samples, read by index; `vtp new-plugin NAME --kind source` writes an example.

    Constructed as ``Class(config, limits)`` with a `vtp_core.data.decoding.DecodeLimits`; opening it checks
    that its paths exist and raises `vtp_core.errors.DataError` if there is nothing to read.
    One object serves training, evaluation and statistics of a process, and the workers that it forks.

    Attributes:
        fields: Fields that its samples can have.
        classes: Class names by index; empty if there are none or they are unknown.
    """

    @property
    def fields(self) -> frozenset[str]:
        """Fields that its samples can have, of "image", "latent", "text" and "label"."""

    @property
    def classes(self) -> Sequence[str]:
        """Class names by index."""

    def __len__(self) -> int:
        """Number of samples."""

    def read(self, index: int, fields: frozenset[str]) -> Sample:
        """Reads one sample.

        Args:
            index: 0 .. len - 1.
            fields: Fields that are needed, all of them in `self.fields`; others need not be read.

        Raises:
            BadSample: A needed field is missing or damaged.
            DataError: The source as a whole can no longer be read.
        """


@runtime_checkable
class FaultySource(Protocol):
    """A source that may find faults while it is opened, such as truncated shards."""

    def problems(self) -> Mapping[str, Sequence[str]]:
        """Kind of fault -> places."""
