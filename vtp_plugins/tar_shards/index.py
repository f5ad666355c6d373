"""Index of a tar shard: the offsets of each sample's files, for random access. Imports no torch.

Built once from the headers, cached beside the shard (``NAME.tar.vtp-index.npz``) or in the user's cache, and
valid while size and modification time of the shard are the same. It reports damage that stream readers ignore
(truncated archives, interleaved or duplicate members).
"""

from __future__ import annotations

import os
import tarfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy
from numpy.typing import NDArray

from vtp_core.atomic import replacing_file

_VERSION = 1
_SUFFIX = ".vtp-index.npz"
_CUT = "truncated or damaged archive"
_MAX_NAME = 1024


@dataclass(frozen=True, kw_only=True)
class ShardIndex:
    """Content of a shard. Samples are in order of their first member.

    Attributes:
        size: Size of the shard in bytes when it was indexed.
        mtime: Its modification time in nanoseconds.
        extensions: All extensions of members, in lower case.
        offsets: (samples, extensions) int64, first byte of the member; -1 if the sample has none.
        lengths: (samples, extensions) int64, bytes of the member.
        keys: (samples,) UTF-8 bytes: the path in the archive without extension.
        problems: Problem -> number of members.
    """

    size: int
    mtime: int
    extensions: tuple[str, ...]
    offsets: NDArray[numpy.int64]
    lengths: NDArray[numpy.int64]
    keys: NDArray[numpy.bytes_]
    problems: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.keys)

    def key(self, row: int) -> str:
        """Name of a sample."""
        return bytes(self.keys[row]).decode("utf-8", errors="replace")

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


def split_name(name: str, known: Sequence[str]) -> tuple[str, str]:
    """Key and extension of a member.

    The longest known extension wins: ``a/img.v1.jpg`` is key ``a/img.v1``, extension ``jpg``. An unknown one
    starts after the last dot. ``..``, ``.`` and leading slashes are removed.
    """
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    if not parts:
        return "", ""
    lower = parts[-1].lower()
    matching = [extension for extension in known if lower.endswith("." + extension)]
    if matching:
        length = max(map(len, matching))
        stem, extension = parts[-1][: -length - 1], lower[-length:]
    else:
        stem, _, extension = parts[-1].rpartition(".")
        stem, extension = (stem, extension.lower()) if stem else (extension, "")
    return "/".join([*parts[:-1], stem]), extension


def build_index(shard: Path, known: Sequence[str]) -> ShardIndex:
    """Reads all headers of a tar file.

    Args:
        shard: Plain (uncompressed) tar file.
        known: Extensions of a sample's members, in lower case, without the leading dot.

    Raises:
        OSError: It can't be opened.
        tarfile.TarError: It is empty, compressed or not a tar file.
    """
    stat = shard.stat()
    problems: dict[str, int] = {}
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    last = ""
    for member in _members(shard, stat.st_size, problems):
        key, extension = split_name(member.name, known)
        if not key or os.path.basename(key).startswith("._") or "__MACOSX" in key:
            _count(problems, "hidden member")
            continue
        if key in samples and key != last:
            _count(problems, "interleaved member (regrouped)")
        files = samples.setdefault(key, {})
        if extension in files:
            _count(problems, "duplicate member (first kept)")
        else:
            files[extension] = (member.offset_data, member.size)
        last = key
    if _CUT in problems and last in samples:
        # The last sample may lack files; without its caption it would train as one that has none.
        others = [set(files) for key, files in samples.items() if key != last]
        if not others or not others[-1] <= set(samples[last]):
            del samples[last]
            _count(problems, "incomplete last sample (dropped)")
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
        keys=numpy.array([key.encode("utf-8", errors="replace") for key in samples], dtype=numpy.bytes_),
        problems=problems,
    )


def _count(problems: dict[str, int], what: str) -> None:
    problems[what] = problems.get(what, 0) + 1


def _members(shard: Path, size: int, problems: dict[str, int]) -> Iterator[tarfile.TarInfo]:
    """Regular files that are completely within the archive."""
    end = 0
    with tarfile.open(shard, "r:") as archive:
        try:
            for member in archive:
                plain = member.isreg() and not member.issparse()
                end = member.offset_data + (member.size if member.isreg() else 0)
                if end > size:
                    break
                if plain and len(member.name) <= _MAX_NAME:
                    yield member
                elif not member.isdir():
                    _count(problems, "long-named member (ignored)" if plain else "link or device (ignored)")
                archive.members = []  # type: ignore[attr-defined]  # it keeps every header otherwise
        except tarfile.TarError:
            _count(problems, _CUT)
            return
    # A complete archive ends with zero blocks; tarfile also stops at a truncated or damaged header.
    with shard.open("rb") as file:
        file.seek(-(-end // 512) * 512)
        if file.read(512) != bytes(512):
            _count(problems, _CUT)


def load_index(shard: Path, known: Sequence[str], *, cache: bool = True) -> ShardIndex:
    """The index of a shard, from the cache if the shard is unchanged, else built and cached.

    Args:
        shard: Plain tar file.
        known: As in `build_index`; an index of other extensions is not used.
        cache: Whether to read and write the cache.

    Raises:
        OSError: The shard can't be opened.
        tarfile.TarError: It is not a usable tar file.
    """
    if not cache:
        return build_index(shard, known)
    stat = shard.stat()
    places = _places(shard)
    for place in places:
        found = _read(place, known)
        if found is not None and (found.size, found.mtime) == (stat.st_size, stat.st_mtime_ns):
            return found
    index = build_index(shard, known)
    for place in places:
        try:
            _write(place, index, known)
            break
        except OSError:  # a read-only data folder is normal; the user's cache is next
            continue
    return index


def _places(shard: Path) -> list[Path]:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = blake2b(os.fsencode(shard.resolve()), digest_size=16).hexdigest()
    return [shard.with_name(shard.name + _SUFFIX), base / "vtp" / "shards" / (name + _SUFFIX)]


def _write(place: Path, index: ShardIndex, known: Sequence[str]) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    with replacing_file(place) as file:
        numpy.savez(
            file,
            version=numpy.int64(_VERSION),
            known=numpy.array(sorted(known)),
            stat=numpy.array([index.size, index.mtime], dtype=numpy.int64),
            extensions=numpy.array(index.extensions, dtype=numpy.str_),
            offsets=index.offsets,
            lengths=index.lengths,
            keys=index.keys,
            problem_names=numpy.array(list(index.problems), dtype=numpy.str_),
            problem_counts=numpy.array(list(index.problems.values()), dtype=numpy.int64),
        )


def _read(place: Path, known: Sequence[str]) -> ShardIndex | None:
    try:
        with place.open("rb") as file, numpy.load(file, allow_pickle=False) as stored:
            if int(stored["version"]) != _VERSION or stored["known"].tolist() != sorted(known):
                return None
            size, mtime = stored["stat"].tolist()
            return ShardIndex(
                size=size,
                mtime=mtime,
                extensions=tuple(stored["extensions"].tolist()),
                offsets=stored["offsets"],
                lengths=stored["lengths"],
                keys=stored["keys"],
                problems=dict(
                    zip(stored["problem_names"].tolist(), stored["problem_counts"].tolist(), strict=True)
                ),
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None  # no cache, or a damaged one: rebuilt
