"""The names of many samples, stored end to end. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy
from numpy.typing import NDArray


class Keys:
    """Names of samples in UTF-8, none longer in memory because another one is.

    Args:
        data: (bytes,) uint8: each name, followed by a zero.
    """

    def __init__(self, data: NDArray[numpy.uint8]) -> None:
        self.data = data
        self._ends = numpy.flatnonzero(data == 0)

    @classmethod
    def of(cls, keys: Iterable[bytes]) -> Keys:
        """Stores names; zeros in them are left out."""
        joined = b"".join(key.replace(b"\0", b"") + b"\0" for key in keys)
        return cls(numpy.frombuffer(joined, dtype=numpy.uint8))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, row: int) -> bytes:
        start = int(self._ends[row - 1]) + 1 if row else 0
        return self.data[start : self._ends[row]].tobytes()

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.data.tobytes().split(b"\0")[:-1])

    def select(self, rows: NDArray[numpy.bool_]) -> Keys:
        """The names of the marked rows, (rows,)."""
        return Keys(self.data[numpy.repeat(rows, numpy.diff(self._ends, prepend=-1))])

    def words(self) -> Iterator[tuple[NDArray[numpy.intp], NDArray[numpy.uint64]]]:
        """The names as words of 8 bytes, padded with zeros: the first of each name, the second, and so on.

        Yields:
            Rows that are long enough to have the word, and their words.
        """
        starts = numpy.concatenate([[0], self._ends[:-1] + 1])[: len(self)]
        lengths = self._ends - starts
        within = numpy.arange(8)
        for place in range(0, int(lengths.max(initial=0)), 8):
            rows = numpy.flatnonzero(lengths > place)
            at = numpy.minimum(starts[rows, None] + place + within, self._ends[rows, None])  # a zero
            yield rows, numpy.ascontiguousarray(self.data[at]).view("<u8")[:, 0].astype(numpy.uint64)


def parts_of_others(keys: Keys, has: NDArray[numpy.bool_]) -> NDArray[numpy.bool_]:
    """Marks rows that are no samples: their key is another's and a suffix, and that one has all they have.

    In webdataset's convention ``KEY.jpg`` and the mask ``KEY.seg.png`` are one sample. ``img.v1.jpg`` and
    ``img.v2.jpg`` without an ``img.jpg`` are two.

    Args:
        keys: Names of a shard's samples.
        has: (samples, columns), whether a sample has a member for a column.

    Returns:
        (samples,).
    """
    parts = numpy.zeros(len(keys), dtype=bool)
    if not (keys.data == ord(".")).any():
        return parts
    rows = {key: row for row, key in enumerate(keys)}
    for key, row in rows.items():
        end = key.find(b".", key.rfind(b"/") + 2)
        while end > 0 and not parts[row]:
            whole = rows.get(key[:end])
            parts[row] = whole is not None and bool((has[whole] >= has[row]).all())
            end = key.find(b".", end + 1)
    return parts
