"""Reads the header of an untrusted ``.npy`` file. Imports no torch.

NumPy's own reader evaluates the header with `ast`, which raises SystemError on sound files when several
threads do so (CPython 3.11). A regular expression reads what NumPy writes, and runs nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import IO, Any

import numpy

_MAGIC = b"\x93NUMPY"
_LENGTH_BYTES = {(1, 0): 2, (2, 0): 4}
MOST_BYTES = 10_000
"""Longest header that is read, as in NumPy."""

_VALUES = {
    "descr": r"'(?P<descr>[<>|=]?[a-zA-Z]\d{0,2})'",
    "fortran_order": r"(?P<fortran_order>True|False)",
    "shape": r"\((?P<shape>(?:\d{1,19}\s*,\s*)*(?:\d{1,19}\s*)?)\)",
}
_ENTRIES = {key: re.compile(rf"\s*'{key}'\s*:\s*{value}\s*(?:,|(?=\}}))") for key, value in _VALUES.items()}


@dataclass(frozen=True, kw_only=True)
class NpyHeader:
    """What a header states.

    Attributes:
        shape: Of the array.
        dtype: Of its elements: one plain type, no fields, no objects.
        fortran_order: Whether the first axis varies fastest.
    """

    shape: tuple[int, ...]
    dtype: numpy.dtype[Any]
    fortran_order: bool


def read_npy_header(file: IO[bytes]) -> NpyHeader:
    """Reads a header of version 1.0 or 2.0; the file is then at the first element.

    Raises:
        ValueError: It is damaged, of another version, or its elements have no plain type.
    """
    start = file.read(8)
    version = tuple(start[6:])
    if start[:6] != _MAGIC or len(version) != 2:
        raise ValueError("no .npy file")
    if version not in _LENGTH_BYTES:
        raise ValueError(f"version {version} of the .npy format")
    width = _LENGTH_BYTES[version]
    length = file.read(width)
    size = int.from_bytes(length, "little")
    if len(length) != width or size > MOST_BYTES:
        raise ValueError("damaged .npy header")
    text = file.read(size)
    if len(text) != size:
        raise ValueError("damaged .npy header: it ends early")
    return _parse(text.decode("latin1").strip())


def _parse(text: str) -> NpyHeader:
    found: dict[str, str] = {}
    position = 1
    while text[:1] == "{" and len(found) < len(_ENTRIES):
        match = next((m for entry in _ENTRIES.values() if (m := entry.match(text, position))), None)
        if match is None:
            break
        found |= match.groupdict()
        position = match.end()
    if set(found) != set(_ENTRIES) or text[position:].strip() != "}":
        raise ValueError(f"damaged .npy header {text[:80]!r}")
    try:
        dtype = numpy.dtype(found["descr"])
    except TypeError as error:
        raise ValueError(f".npy header: {error}") from None
    if dtype.hasobject:
        raise ValueError(".npy header: elements are Python objects")
    shape = tuple(int(size) for size in found["shape"].split(",") if size.strip())
    return NpyHeader(shape=shape, dtype=dtype, fortran_order=found["fortran_order"] == "True")
