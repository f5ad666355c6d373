"""The members of a plain tar file, header by header. Imports no torch.

`tarfile` parses a header. It doesn't walk the archive: it trusts sizes, so that a negative one loops and an
extended header of a gigabyte is read into memory, and it ends at the first end mark.
"""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal

_BLOCK = 512
_ZEROS = bytes(_BLOCK)
_MOST_EXTENDED = 1 << 20
"""Largest extended header that is read, in bytes."""
_MOST_PADDING = 1 << 20
"""Zeros after an end mark among which another archive is looked for, in bytes."""
_LONG_NAME, _PAX = tarfile.GNUTYPE_LONGNAME, (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_EXTENDED = (_LONG_NAME, tarfile.GNUTYPE_LONGLINK, *_PAX, tarfile.XGLTYPE)
_RECORD = re.compile(rb"(\d{1,10}) ([^=\n]+)=")


@dataclass(frozen=True, kw_only=True)
class Member:
    """A member that is completely within the file.

    Attributes:
        name: Its path in the archive; bytes that are not UTF-8 are surrogates.
        kind: A file, a file whose extended header is too large to read, a folder, or anything else: links,
            devices, sparse files.
        offset: First byte of its data.
        size: Bytes of its data.
        archive: Number of its archive among those that follow each other in the file.
    """

    name: str
    kind: Literal["file", "oversized", "folder", "other"]
    offset: int
    size: int
    archive: int


@dataclass
class _Extended:
    """What extended headers say about the member that follows them."""

    name: bytes | None = None
    size: int | None = None
    sparse: bool = False
    oversized: bool = False


def members(file: BinaryIO) -> Iterator[Member]:
    """Reads the headers of a tar file and of those that follow it in the same file.

    It takes time in proportion to the headers, and memory for the largest extended header, at most a MiB.

    Args:
        file: Opened for reading; it can seek.

    Raises:
        tarfile.ReadError: It is empty or does not start as a tar file.
        tarfile.HeaderError: It is cut or damaged; the members before that place were given.
    """
    size = os.fstat(file.fileno()).st_size
    if not size:
        raise tarfile.ReadError("the file is empty")
    at, end, extended, archive = 0, -1, _Extended(), 0
    while True:
        file.seek(at)
        block = file.read(_BLOCK)
        if end >= 0 and (not block or block == _ZEROS[: len(block)]):
            at += _BLOCK
            if at >= size:
                return
            if at - end > _MOST_PADDING:
                raise tarfile.HeaderError(f"over {_MOST_PADDING} zeros after its end")
            continue
        if block == _ZEROS and extended == _Extended():
            end = at
            continue
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise tarfile.ReadError("not a tar file") if at == 0 else error from None
        archive += end >= 0
        end, data = -1, at + _BLOCK
        if header.type in _EXTENDED:
            at = _after(data, header.size, size)
            _extend(extended, header, file, data)
            continue
        if header.type == tarfile.GNUTYPE_SPARSE:
            data = _after_map(file, block, data)
        length = header.size if extended.size is None else extended.size
        has_data = header.isreg() or header.type not in tarfile.SUPPORTED_TYPES
        at = _after(data, length if has_data else 0, size)
        yield _member(header, extended, data, length, archive)
        extended = _Extended()


def _after(data: int, length: int, size: int) -> int:
    """Where the next header is."""
    if length < 0 or data + length > size:
        raise tarfile.HeaderError(f"a member of {length} bytes at {data} of {size}")
    return data + -(-length // _BLOCK) * _BLOCK


def _member(header: tarfile.TarInfo, extended: _Extended, data: int, length: int, archive: int) -> Member:
    name = header.name if extended.name is None else extended.name.decode("utf-8", "surrogateescape")
    kind: Literal["file", "oversized", "folder", "other"] = "other"
    if header.isdir():
        kind = "folder"
    elif header.isreg() and header.type != tarfile.GNUTYPE_SPARSE and not extended.sparse:
        kind = "oversized" if extended.oversized else "file"
    return Member(name=name, kind=kind, offset=data, size=length, archive=archive)


def _extend(extended: _Extended, header: tarfile.TarInfo, file: BinaryIO, data: int) -> None:
    """Reads an extended header; of several for one member the first counts."""
    if header.type != _LONG_NAME and header.type not in _PAX:
        return  # a link's target, or defaults for all members, which no program writes for names and sizes
    if header.size > _MOST_EXTENDED:
        extended.oversized = True
        return
    file.seek(data)
    body = file.read(header.size)
    if header.type == _LONG_NAME:
        extended.name = extended.name or body.partition(b"\0")[0]
        return
    at = 0
    while at < len(body) and body[at]:
        match = _RECORD.match(body, at)
        end = at + int(match[1]) if match else 0
        if match is None or not match.end() < end <= len(body) or body[end - 1 : end] != b"\n":
            raise tarfile.HeaderError(f"a damaged pax header at {data}")
        key, value = match[2], body[match.end() : end - 1]
        if key == b"path":
            extended.name = extended.name or value.partition(b"\0")[0]
        elif key == b"size":
            if not re.fullmatch(rb"\d{1,18}", value):
                raise tarfile.HeaderError(f"a damaged size in the pax header at {data}")
            extended.size = int(value) if extended.size is None else extended.size
        elif key.startswith(b"GNU.sparse."):
            extended.sparse = True
        at = end


def _after_map(file: BinaryIO, block: bytes, data: int) -> int:
    """Where the data of an old sparse file starts: after the blocks that continue its header's map."""
    more = block[482]
    while more:
        file.seek(data)
        block = file.read(_BLOCK)
        if len(block) < _BLOCK:
            raise tarfile.HeaderError("cut in the map of a sparse file")
        more, data = block[504], data + _BLOCK
    return data
