"""Random access to the samples of many tar shards. Imports no torch.

It knows which members belong to a field, not their meaning. Forked workers may share it: all reads are
positioned.
"""

from __future__ import annotations

import os
import tarfile
import time
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from random import SystemRandom
from typing import Any

import numpy
from numpy.typing import NDArray

from vtp_core.data.completeness import Lost
from vtp_core.data.source import BadSample
from vtp_core.errors import DataError
from vtp_plugins.tar_shards.damage import Losses, why_unreadable
from vtp_plugins.tar_shards.index import CUT, ShardIndex
from vtp_plugins.tar_shards.keys import Keys, parts_of_others
from vtp_plugins.tar_shards.sidecar import load_index, sweep_sidecars
from vtp_plugins.tar_shards.subset import Subset, smallest

_OPEN_FILES = 32
_ATTEMPTS = 4


class Shards:
    """Samples of tar shards, numbered in the order of the shards.

    Args:
        paths: Plain tar files.
        columns: Field -> extensions of its members, in order of preference.
        ignored: Further extensions that are part of a sample and not read (``seg.png``).
        cache: Whether indices are cached beside the shards or in the user's cache.
        subset: The samples to keep, of which at most `most_held` and a shard's are in memory; None: all.

    Raises:
        DataError: A shard is missing, no shard has a sample, or there are fewer than the subset's.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        columns: Mapping[str, Sequence[str]],
        *,
        ignored: Sequence[str] = (),
        cache: bool = True,
        subset: Subset | None = None,
    ) -> None:
        known = sorted({*ignored, *(extension for names in columns.values() for extension in names)})
        self.found: dict[str, int] = {}
        self._losses = Losses()
        self._problems: dict[str, list[str]] = {}
        self._paths: list[Path] = []
        self._stats: list[tuple[int, int]] = []
        self._keys: list[Keys] = []
        self._hashes: list[NDArray[numpy.uint64]] = []
        self._held = 0
        self._columns: dict[str, list[tuple[NDArray[numpy.int64], NDArray[numpy.int64]]]] = {
            name: [] for name in columns
        }
        for path in paths:
            try:
                index = load_index(path, known, cache=cache)
            except FileNotFoundError as error:
                raise DataError(f"{path}: no such shard; check the urls of the source") from error
            except (OSError, tarfile.TarError) as error:
                why = why_unreadable(path, error)
                self._problem("unreadable shard (skipped)", f"{path}: {why}")
                self._losses.damaged(path, why)
                continue
            for what, count in index.problems.items():
                self._problem(what, f"{path}: {count}")
            samples = self._add(path, index, columns, subset)
            if CUT in index.problems:
                self._losses.damaged(path, f"cut or damaged after {samples} samples", samples)
            elif samples:
                self._losses.whole(samples)
            else:
                self._losses.damaged(path, f"no sample with a member of {', '.join(known)}")
        if cache:
            sweep_sidecars(paths)
        if subset is not None:
            self._keep(subset)
            self._hashes = []
        self._ends = list(accumulate(len(keys) for keys in self._keys))
        self._files: OrderedDict[int, int] = OrderedDict()
        if not len(self):
            raise DataError(self._nothing(len(paths), known))

    def _nothing(self, paths: int, known: Sequence[str]) -> str:
        found = ", ".join(self.found) or "nothing"
        first = next((places[0] for places in self._problems.values()), "")
        return (
            f"no sample with a member of {', '.join(known)} in {paths} shards; found: {found}"
            + (f"; first problem: {first}" if first else "")
            + "; name the extensions in the source's table"
        )

    def _problem(self, what: str, where: str) -> None:
        self._problems.setdefault(what, []).append(where)

    def _add(
        self, path: Path, index: ShardIndex, columns: Mapping[str, Sequence[str]], subset: Subset | None
    ) -> int:
        """Adds the samples of a shard that have a known member; returns their number."""
        for place, extension in enumerate(index.extensions):
            count = int((index.offsets[:, place] >= 0).sum())
            self.found[extension] = self.found.get(extension, 0) + count
        for extension, count in index.others.items():
            self.found[extension] = self.found.get(extension, 0) + count
        places = {name: index.column(extensions) for name, extensions in columns.items()}
        used = numpy.zeros(len(index), dtype=bool)
        for offset, _ in places.values():
            used |= offset >= 0
        if not used.all():
            self._problem("sample without a known member (skipped)", f"{path}: {int((~used).sum())}")
        has = numpy.stack([offset >= 0 for offset, _ in places.values()], axis=1)
        if (parts := used & parts_of_others(index.keys, has)).any():
            first = index.key(int(parts.argmax()))
            self._problem("part of another sample (not read)", f"{path}: {int(parts.sum())}, such as {first}")
            used &= ~parts
        if not used.any():
            return 0
        self._paths.append(path)
        self._stats.append((index.size, index.mtime))
        self._keys.append(index.keys.select(used))
        for name, (offset, length) in places.items():
            self._columns[name].append((offset[used], length[used]))
        if subset is not None:
            self._hashes.append(subset.hashes(path.name, self._keys[-1]))
            self._held += len(self._keys[-1])
            if self._held > subset.most_held:
                self._keep(subset)
        return int(used.sum())

    def _keep(self, subset: Subset) -> None:
        """Drops the samples that can't be in the subset."""
        if self._held < subset.size:
            raise DataError(f"subset.size = {subset.size}, but the shards hold {self._held} samples")
        lengths = [len(keys) for keys in self._keys]
        chosen = smallest(numpy.concatenate(self._hashes), subset.size)
        for shard, kept in enumerate(numpy.split(chosen, list(accumulate(lengths))[:-1])):
            if not kept.all():
                self._keys[shard] = self._keys[shard].select(kept)
                self._hashes[shard] = self._hashes[shard][kept]
                for pairs in self._columns.values():
                    offset, length = pairs[shard]
                    pairs[shard] = offset[kept], length[kept]
        self._held = subset.size

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": OrderedDict()}  # descriptors belong to their process

    def problems(self) -> Mapping[str, Sequence[str]]:
        """Problem found while indexing -> where, with its number."""
        return self._problems

    def has(self, index: int, column: str) -> bool:
        """Whether a sample has a member for `column`."""
        shard, row = self._locate(index)
        return bool(self._columns[column][shard][0][row] >= 0)

    def lost(self, missing: tuple[str, ...] = ()) -> Lost:
        """Shards that could not be read whole; `missing` ones are known to the caller."""
        return self._losses.total(missing)

    def count(self, column: str) -> int:
        """Number of samples that have a member for `column`."""
        return sum(int((offset >= 0).sum()) for offset, _ in self._columns[column])

    def _locate(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} is outside of 0..{len(self) - 1}")
        shard = bisect_right(self._ends, index)
        return shard, index - (self._ends[shard - 1] if shard else 0)

    def key(self, index: int) -> str:
        """Key of a sample: its path in the archive without extension."""
        shard, row = self._locate(index)
        return self._keys[shard][row].decode("utf-8", errors="replace")

    def shard(self, index: int) -> Path:
        """The file that holds a sample."""
        return self._paths[self._locate(index)[0]]

    def length(self, index: int, column: str) -> int | None:
        """Bytes of one member of a sample, by the index; None if the sample has no such member."""
        shard, row = self._locate(index)
        offsets, lengths = self._columns[column][shard]
        return int(lengths[row]) if offsets[row] >= 0 else None

    def read(self, index: int, column: str, max_bytes: int) -> bytes | None:
        """One member of a sample.

        Args:
            index: Number of the sample.
            column: Field, as given in `columns`.
            max_bytes: A larger member makes a bad sample.

        Returns:
            Its bytes, or None if the sample has no such member.

        Raises:
            BadSample: It is too large or can't be read.
            DataError: The shard is not the one that was indexed.
        """
        shard, row = self._locate(index)
        offsets, lengths = self._columns[column][shard]
        offset, length = int(offsets[row]), int(lengths[row])
        if offset < 0:
            return None
        if length > max_bytes:
            raise BadSample(self.key(index), f"{column} file too large", f"{length} bytes")
        jitter = SystemRandom()  # independent of training's generators
        for attempt in range(_ATTEMPTS):
            try:
                return self._pread(shard, offset, length)
            except OSError as error:
                self._close(shard)
                if attempt + 1 == _ATTEMPTS:
                    raise BadSample(
                        self.key(index), "unreadable", f"{self._paths[shard]}: {error}"
                    ) from error
                # Network file systems have short failures; jitter spreads the retries of the workers.
                time.sleep(0.05 * 4**attempt * (1 + jitter.random()))
        raise AssertionError("unreachable")

    def _pread(self, shard: int, offset: int, length: int) -> bytes:
        handle = self._open(shard)
        stat = os.fstat(handle)
        if (stat.st_size, stat.st_mtime_ns) != self._stats[shard]:
            raise DataError(f"{self._paths[shard]} changed after it was indexed; start again")
        data = os.pread(handle, length, offset)
        while len(data) < length:
            more = os.pread(handle, length - len(data), offset + len(data))
            if not more:
                raise OSError("short read")
            data += more
        return data

    def _open(self, shard: int) -> int:
        if shard in self._files:
            self._files.move_to_end(shard)
            return self._files[shard]
        handle = os.open(self._paths[shard], os.O_RDONLY)
        self._files[shard] = handle
        if len(self._files) > _OPEN_FILES:
            os.close(self._files.popitem(last=False)[1])
        return handle

    def _close(self, shard: int) -> None:
        handle = self._files.pop(shard, None)
        if handle is not None:
            os.close(handle)

    def close(self) -> None:
        """Closes all files; a later read reopens them."""
        for shard in list(self._files):
            self._close(shard)

    def __del__(self) -> None:
        if hasattr(self, "_files"):
            self.close()
