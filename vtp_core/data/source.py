"""The source interface: where samples come from. Imports no torch.

A source is map-style: it has a length and reads any sample by index, in any process. The loader shuffles,
distributes samples over ranks, cuts crops and replaces bad samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

    from vtp_core.artefact.fingerprint import TokenizerName
    from vtp_core.evaluation.progress import Show
    from vtp_core.plugins import Plugins


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
    A source that reads another one has a class method ``open_with(config, limits, plugins)``, called instead.
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


@runtime_checkable
class SizedSource(Protocol):
    """A source that knows how large its images are stored, so that one that was replaced is noticed."""

    def image_bytes(self, index: int) -> int | None:
        """Bytes of the stored image of a sample, which is not read; None if they are not known."""


@runtime_checkable
class PreparedSource(Protocol):
    """A source that does work before a run reads its first sample, such as encoding all images once."""

    def prepare(self, plugins: Plugins, device: torch.device, show: Show) -> None:
        """Does it, or finds it done; every rank of a run calls this, with the run's device."""


@runtime_checkable
class VersionedSource(Protocol):
    """A source with several versions of each sample, such as an image's latent and that of its mirror image.

    Training reads one of them at random, a function of seed, epoch and sample; `read` gives the first one.
    """

    @property
    def versions(self) -> int:
        """Number of versions of a sample, at least 1."""

    def read_version(self, index: int, version: int, fields: frozenset[str]) -> Sample:
        """Reads one version, as `Source.read` does."""


@runtime_checkable
class LatentSource(Protocol):
    """A source of cached latents; what it says of them is known once it is prepared."""

    @property
    def made_by(self) -> TokenizerName | None:
        """The tokenizer that made the latents; None if the files don't say."""

    def statistics(self) -> tuple[Sequence[float], Sequence[float], str]:
        """Mean and standard deviation by channel, and how they were measured."""
