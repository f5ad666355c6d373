"""Compressed archives, whose samples can't be read by position. Imports nothing of ours."""

from __future__ import annotations

from pathlib import PurePath

COMMANDS = {
    ".gz": "gunzip",
    ".tgz": "gunzip",
    ".zst": "unzstd",
    ".tzst": "unzstd",
    ".bz2": "bunzip2",
    ".xz": "unxz",
    ".lz4": "unlz4",
}
"""Ending of a compressed file -> the command that decompresses it."""
MAGIC = {
    b"\x1f\x8b": ".gz",
    b"\x28\xb5\x2f\xfd": ".zst",
    b"BZh": ".bz2",
    b"\xfd7zXZ\0": ".xz",
    b"\x04\x22\x4d\x18": ".lz4",
}
"""First bytes of a compressed file -> its ending."""


def refusal(path: str) -> str | None:
    """Why the path of a compressed archive is refused; None if its ending is none of one."""
    command = COMMANDS.get(PurePath(path).suffix.lower())
    if command is None:
        return None
    return f"{path!r} is compressed, and samples are read by position: decompress it first ({command})"
