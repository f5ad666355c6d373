"""A checkpoint's ``manifest.json``: its contents and hashes, by which damage is recognised.

A checkpoint is complete if the manifest is there and every file has the size and hash that it lists. Since
format 2 the manifest has a hash of its own, ``sha256``: that of its other keys as sorted JSON.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from vtp_core.atomic import open_plain, plain_size, write_text
from vtp_core.errors import CheckpointError

FORMAT_VERSION = 2
MANIFEST = "manifest.json"
MANIFEST_BYTES = 2**26
"""Largest manifest that is parsed."""
_READ = (1, 2)
_NAME = re.compile(r"step-(\d{8,})(\.old)?")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Contents of ``manifest.json``.

    Attributes:
        step: Steps that were made: the index of the next one.
        files: File name -> size in bytes and sha256.
        recipe: The resolved recipe as JSON data.
        world_size: Ranks that wrote it; any number can read it.
        nonfinite: First tensor with a value that is not finite, or None.
        versions: Versions of the packages that wrote it.
        extra: What the caller added, JSON data.
        format_version: Version of this layout.
    """

    step: int
    files: Mapping[str, Mapping[str, Any]]
    recipe: Mapping[str, Any]
    world_size: int
    nonfinite: str | None
    versions: Mapping[str, str]
    extra: Mapping[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    @property
    def finite(self) -> bool:
        """Whether all weights and states were finite."""
        return self.nonfinite is None

    def write(self, folder: Path) -> None:
        """Writes the manifest and flushes it to the disk."""
        data = {**asdict(self), "finite": self.finite}
        text = json.dumps({**data, "sha256": _hash(data)}, indent=1, sort_keys=True)
        write_text(folder / MANIFEST, text + "\n")


def published(folder: Path) -> list[Path]:
    """Published checkpoints, newest first; ``.old`` is what a killed process was about to replace."""
    matches = [match for path in folder.glob("step-*") if (match := _NAME.fullmatch(path.name))]
    matches.sort(key=lambda match: (-int(match[1]), match[2] or ""))
    return [folder / match[0] for match in matches]


def read_manifest(folder: Path) -> Manifest:
    """Reads a checkpoint's manifest.

    Raises:
        CheckpointError: It is missing, can't be read or is of another format; names the folder.
    """
    try:
        with open_plain(folder / MANIFEST) as file:
            text = file.read(MANIFEST_BYTES + 1)
        if len(text) > MANIFEST_BYTES:
            raise ValueError(f"larger than {MANIFEST_BYTES} bytes")
        data = json.loads(text.decode("utf-8"))
        version = data["format_version"]
        if type(version) is not int or version not in _READ:
            raise CheckpointError(
                f"{folder}: has checkpoint format {version}, this vtp-core reads {FORMAT_VERSION}: "
                "install the version that its manifest.json names"
            )
        if version > 1 and data.pop("sha256") != _hash(data):
            raise ValueError("its hash differs from what it says: it was damaged or edited")
        known = {entry.name for entry in fields(Manifest)}
        manifest = Manifest(**{key: value for key, value in data.items() if key in known})
        _check_types(manifest)
        return manifest
    except FileNotFoundError:
        raise CheckpointError(f"{folder}: {MANIFEST} is missing: it was not completely written") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{folder}: {MANIFEST} can't be read ({error})") from None


def _check_types(manifest: Manifest) -> None:
    if type(manifest.step) is not int or manifest.step < 0:
        raise TypeError(f"step is {manifest.step!r}")
    if not (manifest.nonfinite is None or isinstance(manifest.nonfinite, str)):
        raise TypeError("nonfinite is no text")
    if not (isinstance(manifest.recipe, dict) and isinstance(manifest.extra, dict)):
        raise TypeError("recipe and extra must be objects")
    if not all(isinstance(entry["sha256"], str) for entry in manifest.files.values()):
        raise TypeError("a hash is no text")


def _hash(data: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def check_files(folder: Path, manifest: Manifest, names: Iterable[str]) -> None:
    """Compares files with the manifest.

    Args:
        folder: The checkpoint.
        manifest: Its manifest.
        names: Which of the files that it lists.

    Raises:
        CheckpointError: A file is missing, has another size or another hash; names it.
    """
    if ".metadata" not in manifest.files:
        raise CheckpointError(f"{folder}: {MANIFEST} lists no .metadata")
    for name in names:
        path, expected = folder / name, manifest.files[name]
        if Path(name).name != name:
            raise CheckpointError(f"{folder}: {name} is missing: it is no name of a file in this folder")
        try:
            size = plain_size(path)
        except FileNotFoundError:
            raise CheckpointError(f"{folder}: {name} is missing") from None
        except OSError as error:
            raise CheckpointError(f"{folder}: {error}") from None
        if size != expected.get("size"):
            raise CheckpointError(f"{folder}: {name} has {size} bytes instead of {expected.get('size')}")
        if hash_file(path) != expected["sha256"]:
            raise CheckpointError(f"{folder}: {name} is damaged (its sha256 differs from {MANIFEST})")


def list_files(paths: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """File name -> size and hash, for `Manifest.files`."""
    return {path.name: {"size": path.stat().st_size, "sha256": hash_file(path)} for path in paths}


def hash_file(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    with open_plain(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
