"""What a checkpoint's ``.metadata`` may say: tensors alone, each covered once, in plain files beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from vtp_core.atomic import plain_size


def check_contents(folder: Path, metadata: Metadata) -> None:
    """Checks every entry of a table of contents before anything that it names is opened.

    Args:
        folder: The checkpoint.
        metadata: As it was read.

    Raises:
        ValueError: An entry that is no tensor, chunks that don't cover a tensor exactly once, a place that is
            no plain file of the folder, or bytes of a file that belong to no tensor or to two.
        OSError: A file that is missing or not plain.
    """
    chunks: dict[MetadataIndex, int] = {}
    for name, entry in metadata.state_dict_metadata.items():
        if type(name) is not str:
            raise ValueError(f"an entry is named by a {type(name).__name__}")
        if type(entry) is not TensorStorageMetadata:
            raise ValueError(f"{name!r} is a {type(entry).__name__}; checkpoints hold tensors alone")
        _check_tensor(name, entry)
        for chunk in entry.chunks:
            index = MetadataIndex(name, chunk.offsets)
            chunks[index] = math.prod(chunk.sizes) * entry.properties.dtype.itemsize
    _check_places(folder, metadata.storage_data, chunks)


def _check_tensor(name: str, entry: Any) -> None:
    if not _is_whole(entry):
        raise ValueError(f"{name} is damaged")
    # Sharding cuts each dimension into intervals; the chunks are all combinations of these, each once.
    chunks = {(tuple(c.offsets), tuple(c.sizes)) for c in entry.chunks if math.prod(c.sizes) > 0}
    intervals = [{(o[axis], s[axis]) for o, s in chunks} for axis in range(len(entry.size))]
    covered = math.prod(entry.size) == 0 or (
        len(chunks) == math.prod(len(cuts) for cuts in intervals)
        and all(_tiled(cuts, size) for cuts, size in zip(intervals, entry.size, strict=True))
    )
    if not covered:
        raise ValueError(f"the chunks of {name} don't cover it exactly once")


def _is_whole(entry: Any) -> bool:
    size, properties, chunks, dtype = entry.size, entry.properties, entry.chunks, entry.properties.dtype
    if type(size) is not torch.Size or type(properties) is not TensorProperties or type(chunks) is not list:
        return False
    if not all(type(chunk) is ChunkStorageMetadata for chunk in chunks):
        return False
    boxes = [size, *(box for chunk in chunks for box in (chunk.offsets, chunk.sizes))]
    return isinstance(dtype, torch.dtype) and all(
        type(box) is torch.Size and len(box) == len(size) and min(box, default=0) >= 0 for box in boxes
    )


def _check_places(folder: Path, places: object, chunks: Mapping[MetadataIndex, int]) -> None:
    if not isinstance(places, dict) or places.keys() != chunks.keys():
        raise ValueError("chunks and places in files differ")
    by_file: dict[str, set[tuple[int, int]]] = {}
    for index, place in places.items():
        if type(place) is not _StorageInfo or place.transform_descriptors:
            raise ValueError(f"{index.fqn} is stored in a way that is not read here")
        name, offset, length = place.relative_path, place.offset, place.length
        if type(name) is not str:
            raise ValueError(f"{index.fqn} is in a file named by a {type(name).__name__}")
        if name in ("", ".", "..") or Path(name).name != name or "\\" in name:
            raise ValueError(f"{index.fqn} points outside the folder ({name!r})")
        if type(offset) is not int or type(length) is not int or length < max(1, chunks[index]):
            raise ValueError(f"{index.fqn} has {length} bytes of {name} for {chunks[index]} of numbers")
        if (offset, length) in (taken := by_file.setdefault(name, set())):
            raise ValueError(f"{index.fqn} has the bytes of another tensor in {name}")
        taken.add((offset, length))
    for name, taken in by_file.items():
        if not _tiled(taken, plain_size(folder / name)):
            raise ValueError(f"the bytes of {name} don't belong to one tensor each")


def _tiled(intervals: set[tuple[int, int]], size: int) -> bool:
    """Whether (start, length) intervals cover [0, size) exactly once."""
    end = 0
    for start, length in sorted(intervals):
        if start != end:
            return False
        end += length
    return end == size
