"""The samples of a source that its table's `part` and `exclude` leave. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy

from vtp_core.config import SourceConfig
from vtp_core.data.completeness import Lost, lost
from vtp_core.data.draw import integer
from vtp_core.data.source import FaultySource, Sample, SizedSource, Source, VersionedSource
from vtp_core.errors import DataError


def place(key: str) -> float:
    """Where a key lies in [0, 1): uniform over keys, the same on every machine."""
    return integer("part", key) / 2**64


def unparted(source: Source) -> Source:
    """The whole source of a part."""
    return source.source if isinstance(source, Part) else source


class Part:
    """The chosen samples of a source, in its order; fields and classes are the source's.

    Args:
        source: The whole source.
        config: Its table.

    Raises:
        DataError: No sample is left.
    """

    def __init__(self, source: Source, config: SourceConfig) -> None:
        self.source = source
        self.fields = source.fields
        self.classes: Sequence[str] = source.classes
        low, high = config.part or (0.0, 1.0)
        excluded, found, chosen = frozenset(config.exclude), set(), []
        for index in range(len(source)):
            key = source.read(index, frozenset()).key
            if key in excluded:
                found.add(key)
            elif low <= place(key) < high:
                chosen.append(index)
        self._absent = sorted(excluded - found)
        if not chosen:
            raise DataError(
                f"{config.use}: part = [{low:g}, {high:g}] and exclude leave none of {len(source)}"
            )
        self._indices = numpy.array(chosen, dtype=numpy.int64)

    def __len__(self) -> int:
        return len(self._indices)

    def read(self, index: int, fields: frozenset[str]) -> Sample:
        """See `vtp_core.data.source.Source.read`."""
        return self.source.read(int(self._indices[index]), fields)

    def image_bytes(self, index: int) -> int | None:
        """See `vtp_core.data.source.SizedSource.image_bytes`."""
        source = self.source
        return source.image_bytes(int(self._indices[index])) if isinstance(source, SizedSource) else None

    @property
    def versions(self) -> int:
        """Those of the source; 1 if it has none."""
        return self.source.versions if isinstance(self.source, VersionedSource) else 1

    def read_version(self, index: int, version: int, fields: frozenset[str]) -> Sample:
        """See `vtp_core.data.source.VersionedSource.read_version`."""
        if not isinstance(self.source, VersionedSource):
            return self.read(index, fields)
        return self.source.read_version(int(self._indices[index]), version, fields)

    def lost(self) -> Lost:
        """Of the whole source, as it is not known which samples were in them."""
        return lost(self.source)

    def problems(self) -> Mapping[str, Sequence[str]]:
        """Those of the whole source, and excluded keys that it does not have."""
        own = self.source.problems() if isinstance(self.source, FaultySource) else {}
        return {**own, "excluded, but not there": self._absent} if self._absent else own
