"""``samples.json``: what a folder of samples says of itself. Imports no torch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from vtp_core.artefact.fingerprint import TokenizerName, require_same
from vtp_core.atomic import write_text
from vtp_core.config import Table
from vtp_core.errors import DataError, UsageError

RECORD = "samples.json"
FILE = r"^\d{6,}(-[A-Za-z0-9_-]+)?\.png$"
"""Name of a sample's file."""
_BYTES = 64_000_000


class SampleSet(Table):
    """A folder of samples, each a function of the seed and its number."""

    tokenizer: TokenizerName
    """Whose latents were generated."""
    seed: int
    """Of all samples."""
    settings: dict[str, Any]
    """The generator's settings in effect; empty if it states none."""
    classes: list[str] | None
    """The class of each sample by name or number, or None where the generator drew them."""
    images: Annotated[int, Field(ge=0)]
    """Number of samples."""
    folder: str | None = None
    """As it was given."""
    grid: str | None = None
    """File of the picture of all samples."""
    files: list[Annotated[str, Field(pattern=FILE)]] = []
    """Their files."""

    def remove(self, folder: Path) -> None:
        """Removes the set from its folder, the record first: what a kill leaves is no set."""
        (folder / RECORD).unlink()
        for name in self.files:
            (folder / name).unlink(missing_ok=True)

    def write(self, folder: Path) -> None:
        """Writes the record, when all images are there."""
        write_text(folder / RECORD, self.model_dump_json(indent=2) + "\n")


def earlier_set(folder: Path, own: TokenizerName) -> SampleSet | None:
    """The set of a folder that new samples will replace; None if it has none.

    Args:
        folder: The folder.
        own: The tokenizer of the new samples.

    Raises:
        CheckpointError: The set is of another tokenizer.
        DataError: Its record is damaged.
    """
    found = read_record(folder)
    if found is not None:
        require_same(f"the set of samples in {folder}", found.tokenizer, own)
    return found


def check_files(folder: Path, earlier: SampleSet | None) -> None:
    """Refuses a folder with images that look like samples and that no record claims.

    Args:
        folder: The folder; it may be missing.
        earlier: The set that it has.

    Raises:
        UsageError: It has such images: a stopped command left them, or another program wrote them.
    """
    known = set() if earlier is None else set(earlier.files)
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if others := [name for name in names if re.match(FILE, name) and name not in known]:
        raise UsageError(
            f"--output {folder} has {others[0]} and maybe more that belong to no finished set of samples; "
            "delete them, or give another folder"
        )


def read_record(folder: Path) -> SampleSet | None:
    """The record of a folder; None of a folder without one.

    Raises:
        DataError: It is damaged or something else.
    """
    path = folder / RECORD
    if not path.is_file():
        return None
    try:
        if path.stat().st_size > _BYTES:
            raise ValueError("too large")
        return SampleSet.model_validate_json(path.read_bytes())
    except ValueError as error:
        why = f"{error.error_count()} errors" if isinstance(error, ValidationError) else error
        raise DataError(f"{path}: no record of samples ({why}); give another folder, or delete it") from None
