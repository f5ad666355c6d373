"""A long list of strings in two arrays, which forked workers share without copying. Imports no torch."""

from __future__ import annotations

import numpy


class Strings:
    """Strings that are appended and read by index; an object for each would take ten times the memory."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._ends: list[int] | numpy.ndarray = []

    def append(self, text: str) -> None:
        """Adds a string; lone surrogates are kept."""
        assert isinstance(self._ends, list)
        self._bytes += text.encode("utf-8", errors="surrogatepass")
        self._ends.append(len(self._bytes))

    def freeze(self) -> None:
        """Ends appending."""
        self._ends = numpy.array(self._ends, dtype=numpy.int64)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> str:
        start = int(self._ends[index - 1]) if index else 0
        data = bytes(self._bytes[start : int(self._ends[index])])
        return data.decode("utf-8", errors="surrogatepass")
