"""``SHA256SUMS`` of an artefact, as ``sha256sum -c SHA256SUMS`` reads it. Imports no torch."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

from vtp_core.errors import CheckpointError

SUMS = "SHA256SUMS"
_BYTES = 1_000_000
_LINE = re.compile(r"([0-9a-f]{64})  (\S+)")


def write_sums(folder: Path, names: Iterable[str]) -> None:
    """Writes the hashes of files, named relative to the folder."""
    lines = [f"{_hash(folder / name)}  {name}\n" for name in sorted(names)]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")


def check_sums(folder: Path, names: Iterable[str]) -> None:
    """Checks files that are about to be loaded; a folder of an earlier version has no hashes and passes.

    Raises:
        CheckpointError: A file is not listed or differs, or the list is damaged.
    """
    path = folder / SUMS
    if not path.exists():
        return
    if not path.is_file() or path.stat().st_size > _BYTES:
        raise CheckpointError(f"{path}: not a list of hashes; copy or export the artefact again")
    listed: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if (match := _LINE.fullmatch(line)) is None:
            raise CheckpointError(f"{path}: damaged at {line[:80]!r}; copy or export the artefact again")
        listed[match[2]] = match[1]
    for name in names:
        if (folder / name).is_file() and listed.get(name) != _hash(folder / name):
            what = "differs from its hash" if name in listed else "is not listed"
            raise CheckpointError(
                f"{folder / name}: {what} in {SUMS}: it was damaged or edited; copy or export the artefact "
                f"again, or delete {SUMS} to accept the file"
            )


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
