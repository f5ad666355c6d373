"""Index of a tar shard: the offsets of each sample's files, for random access. Imports no torch.

It reports damage that stream readers ignore (truncated archives, interleaved or duplicate members).
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy
from numpy.typing import NDArray

from vtp_plugins.tar_shards.keys import Keys
from vtp_plugins.tar_shards.members import Member, members

INTERLEAVED = "interleaved member (regrouped)"
CUT = "truncated or damaged archive"
_MAX_NAME = 1024
_MOST_OTHERS = 64
_MAX_EXTENSION = 24


@dataclass(frozen=True, kw_only=True)
class ShardIndex:
    """Content of a shard. Samples are in order of their first member.

    Attributes:
        size: Size of the shard in bytes when it was indexed.
        mtime: Its modification time in nanoseconds.
        extensions: Those of the known extensions that it has, in lower case.
        offsets: (samples, extensions) int64, first byte of the member; -1 if the sample has none.
        lengths: (samples, extensions) int64, bytes of the member.
        keys: The samples' paths in the archive without extension.
        others: Other extensions -> number of members; none, long and rare ones are "others".
        problems: Problem -> number of members.
    """

    size: int
    mtime: int
    extensions: tuple[str, ...]
    offsets: NDArray[numpy.int64]
    lengths: NDArray[numpy.int64]
    keys: Keys
    others: Mapping[str, int] = field(default_factory=dict)
    problems: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.keys)

    def key(self, row: int) -> str:
        """Name of a sample."""
        return self.keys[row].decode("utf-8", errors="replace")

    def column(self, extensions: Sequence[str]) -> tuple[NDArray[numpy.int64], NDArray[numpy.int64]]:
        """Offset and length of each sample's first member among `extensions`; -1 and 0 if it has none.

        Returns:
            Two (samples,) int64 arrays.
        """
        offset = numpy.full(len(self), -1, dtype=numpy.int64)
        length = numpy.zeros(len(self), dtype=numpy.int64)
        for extension in extensions:
            if extension in self.extensions:
                place = self.extensions.index(extension)
                free = (offset < 0) & (self.offsets[:, place] >= 0)
                offset[free], length[free] = self.offsets[free, place], self.lengths[free, place]
        return offset, length


def split_name(name: str, known: Collection[str]) -> tuple[str, str]:
    """Key and extension of a member.

    The longest known extension wins: ``a/img.v1.jpg`` is key ``a/img.v1``, extension ``jpg``. An unknown one
    starts after the last dot. If ``image.png`` is known, ``a/image.png`` is a member of ``a``. ``..``, ``.``
    and leading slashes are removed.
    """
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    if not parts:
        return "", ""
    lower = parts[-1].lower()
    if len(parts) > 1 and "." in lower and lower in known:
        return "/".join(parts[:-1]), lower
    matching = [extension for extension in known if lower.endswith("." + extension)]
    if matching:
        length = max(map(len, matching))
        stem, extension = parts[-1][: -length - 1], lower[-length:]
    else:
        stem, _, extension = parts[-1].rpartition(".")
        stem, extension = (stem, extension.lower()) if stem else (extension, "")
    return "/".join([*parts[:-1], stem]), extension


def build_index(shard: Path, known: Sequence[str]) -> ShardIndex:
    """Reads all headers of a tar file, in time and memory in proportion to their number.

    Args:
        shard: Plain (uncompressed) tar file.
        known: Extensions of a sample's members, in lower case, without the leading dot.

    Raises:
        OSError: It can't be opened.
        tarfile.TarError: It is empty, compressed or not a tar file.
    """
    found = _Found(known)
    with shard.open("rb") as file:
        stat = os.fstat(file.fileno())
        try:
            for member in members(file):
                found.add(member)
        except tarfile.HeaderError:
            found.cut()
    samples = found.samples
    extensions = tuple(dict.fromkeys(name for files in samples.values() for name in files))
    offsets = numpy.full((len(samples), len(extensions)), -1, dtype=numpy.int64)
    lengths = numpy.zeros_like(offsets)
    column = {extension: place for place, extension in enumerate(extensions)}
    for row, files in enumerate(samples.values()):
        for extension, (offset, length) in files.items():
            offsets[row, column[extension]], lengths[row, column[extension]] = offset, length
    return ShardIndex(
        size=stat.st_size,
        mtime=stat.st_mtime_ns,
        extensions=extensions,
        offsets=offsets,
        lengths=lengths,
        keys=Keys.of(key.encode("utf-8", errors="replace") for _, key in samples),
        others=found.others,
        problems=found.problems,
    )


class _Found:
    """The samples of a shard while its headers are read."""

    def __init__(self, known: Sequence[str]) -> None:
        # Keys of one archive may be those of another one that follows it in the file.
        self.samples: dict[tuple[int, str], dict[str, tuple[int, int]]] = {}
        self.others: dict[str, int] = {}
        self.problems: dict[str, int] = {}
        self._known = frozenset(known)
        self._last = (0, "")

    def add(self, member: Member) -> None:
        """Adds a member to its sample."""
        if member.kind != "file" or len(member.name) > _MAX_NAME:
            if member.kind != "folder":
                long = member.kind != "other"
                self._count("long-named member (ignored)" if long else "link or device (ignored)")
            return
        key, extension = split_name(member.name, self._known)
        if not key or os.path.basename(key).startswith("._") or "__MACOSX" in key:
            self._count("hidden member")
            return
        sample = (member.archive, key)
        if sample in self.samples and sample != self._last:
            self._count(INTERLEAVED)
        files = self.samples.setdefault(sample, {})
        self._last = sample
        if extension not in self._known:
            room = extension in self.others or len(self.others) < _MOST_OTHERS
            plain = 0 < len(extension) <= _MAX_EXTENSION and extension.isprintable()
            extension = extension if plain and room else "others"
            self.others[extension] = self.others.get(extension, 0) + 1
        elif extension in files:
            self._count("duplicate member (first kept)")
        else:
            files[extension] = (member.offset, member.size)

    def cut(self) -> None:
        """Ends at damage: the last sample may lack files, and without its caption would count as complete."""
        self._count(CUT)
        last = self.samples.get(self._last)
        if last is not None:
            others = (files for sample, files in reversed(self.samples.items()) if sample != self._last)
            before = next(others, None)
            if before is None or not before.keys() <= last.keys():
                del self.samples[self._last]
                self._count("incomplete last sample (dropped)")

    def _count(self, what: str) -> None:
        self.problems[what] = self.problems.get(what, 0) + 1
