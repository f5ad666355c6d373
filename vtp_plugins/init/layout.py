"""Which source reads what lies at a path, and with which keys. Imports no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os.path import expanduser
from pathlib import Path

from vtp_core.data.files import files_below
from vtp_core.data.source import as_utf8
from vtp_core.errors import DataError
from vtp_core.recipe.history import RESOLVED
from vtp_plugins.image_folder.config import ImageFolderConfig
from vtp_plugins.image_list.config import ENDINGS
from vtp_plugins.init.members import member_keys
from vtp_plugins.init.tables import damage, table_keys

SUFFIXES = tuple(f".{name}" for name in ImageFolderConfig.model_fields["extensions"].default)
_TRAIN = ("train", "training")
_HELD_OUT = ("val", "valid", "validation", "test", "testing")
_UNREAD = (
    ".heic",
    ".heif",
    ".cr2",
    ".nef",
    ".arw",
    ".dng",
    ".psd",
    ".svg",
    ".zip",
    ".gz",
    ".zst",
    ".7z",
    ".jxl",
)
"""Endings that are probably images, and that no source reads."""

Keys = Mapping[str, object]


@dataclass(frozen=True)
class Layout:
    """What lies at a path.

    Attributes:
        train: Table of the source to train on.
        held_out: Table of the source to evaluate on, if a folder of its own holds it.
        kind: What was found, in words.
        notes: What was found and isn't read, one line each.
    """

    train: Keys
    held_out: Keys | None
    kind: str
    notes: tuple[str, ...] = ()


def find_layout(path: str) -> Layout:
    """Looks at names, at the first lines of tables and at the first members of a shard.

    Args:
        path: A folder, a table, a tar shard or a pattern of shards, as the user typed it.

    Raises:
        DataError: There is nothing that a source reads.
    """
    place = Path(expanduser(path))
    if place.is_dir():
        return _folder(path, place)
    if place.suffix == ".tar" or (not place.exists() and ".tar" in path):
        return Layout({"use": "webdataset", "urls": path, **member_keys(path)}, None, "tar shards")
    if not place.exists():
        raise DataError(f"{path}: no such file or folder")
    if place.suffix.lower() in ENDINGS:
        if (keys := table_keys(place, path)) is None:
            raise DataError(f"{path}: none of its columns holds paths of images that exist{damage(place)}")
        return Layout(keys, None, f"a table, {place.name}")
    raise DataError(f"{path}: give a folder of images, a table ({', '.join(ENDINGS)}) or tar shards")


def _folder(path: str, folder: Path) -> Layout:
    names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    below = {name.lower(): name for name in names if (folder / name).is_dir()}
    train = next((below[name] for name in _TRAIN if name in below), None)
    if train is not None and set(below) <= {*_TRAIN, *_HELD_OUT}:
        held = next((below[name] for name in _HELD_OUT if name in below), None)
        parts = [_folder(f"{path.rstrip('/')}/{name}", folder / name) for name in (train, held) if name]
        same = len(parts) == 2 and parts[0].train["use"] == parts[1].train["use"]
        held_out = parts[1].train if same else None
        return Layout(parts[0].train, held_out, f"{parts[0].kind} in {train}", parts[0].notes)
    notes = tuple(_unread(folder))
    images = next(_images(folder), None) is not None
    for pattern in ("*.tar", "*/*.tar"):
        if shards := len(list(folder.glob(pattern))):
            urls = f"{path.rstrip('/')}/{pattern}"
            if images:  # more likely archives of something than shards
                notes += (f"{shards} tar files beside the images; vtp init '{urls}' reads them",)
                continue
            return Layout({"use": "webdataset", "urls": urls, **member_keys(urls)}, None, "tar shards", notes)
    tables = [name for name in names if name.lower().endswith(ENDINGS)]
    # Hugging Face's name first; other tables may describe something else.
    for name in sorted(tables, key=lambda name: (not name.startswith("metadata."), name)):
        if (keys := table_keys(folder / name, f"{path.rstrip('/')}/{name}")) is not None:
            return Layout(keys, None, f"images that {name} lists", notes)
        notes += (f"{name} lists no images that exist",)
    if not images:
        what = f" ({'; '.join(notes)})" if notes else ""
        raise DataError(
            f"{path}: no image in it or below it{what}; give a folder of images, a table or shards"
        )
    return _classes(path, folder, [name for name in names if (folder / name).is_dir()], notes)


def _classes(path: str, folder: Path, below: Sequence[str], notes: tuple[str, ...]) -> Layout:
    """A folder of images; of its subfolders `below` those with an image are the classes."""
    keys: dict[str, object] = {"use": "image_folder", "path": path}
    tops = {file.relative_to(folder).parts[0] for file in _images(folder)}
    empty = [name for name in below if name not in tops and not (folder / name / RESOLVED).exists()]
    written = all(name == as_utf8(name) for name in tops)  # a recipe can't hold other names
    if empty and written and tops <= set(below):
        keys["classes"] = sorted(tops)
        notes += (f"{len(empty)} of the folders, without images: {', '.join(empty[:5])}",)
    return Layout(keys, None, "a folder of images", notes)


def _files(folder: Path) -> Iterator[Path]:
    return (folder / name for name in files_below(folder, ("",), {}))


def _images(folder: Path) -> Iterator[Path]:
    return (file for file in _files(folder) if file.name.lower().endswith(SUFFIXES))


def _unread(folder: Path) -> Iterator[str]:
    counts = Counter(file.suffix.lower() for file in _files(folder))
    for ending in _UNREAD:
        if counts[ending]:
            yield f"{counts[ending]} files end in {ending}, which isn't read: convert or unpack them"
