"""Reads checkpoints of torch.distributed.checkpoint without trusting them.

Their ``.metadata`` is a plain pickle, which could run code: only the classes that such a file needs can be
named in it, and what it says is checked. Tensors are decoded by `chunk.read_chunk`, never by ``torch.load``.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, LoadPlanner, ReadItem
from torch.futures import Future

from vtp_core.atomic import open_plain
from vtp_core.errors import CheckpointError
from vtp_core.training.saving.chunk import read_chunk
from vtp_core.training.saving.contents import check_contents

METADATA_BYTES = 2**28
"""Largest ``.metadata`` that is parsed."""

_METADATA = "torch.distributed.checkpoint.metadata"
_ALLOWED = {
    *((_METADATA, name) for name in (
        "Metadata", "MetadataIndex", "StorageMeta", "TensorStorageMetadata", "BytesStorageMetadata",
        "ChunkStorageMetadata", "TensorProperties", "_MEM_FORMAT_ENCODING",
    )),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    ("torch", "Size"),
    ("collections", "OrderedDict"),
    ("pathlib", "PosixPath"),
    ("pathlib", "WindowsPath"),
    ("pathlib._local", "PosixPath"),
    ("pathlib._local", "WindowsPath"),
}  # fmt: skip

_WITH_FIELDS = (
    Metadata, MetadataIndex, StorageMeta, TensorStorageMetadata, BytesStorageMetadata, ChunkStorageMetadata,
    TensorProperties, _StorageInfo,
)  # fmt: skip


class _Unpickler(pickle._Unpickler):  # the one in C allocates what a memo index claims
    def find_class(self, module: str, name: str) -> Any:
        dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if (module, name) in _ALLOWED or dtype:
            return super().find_class(module, name)
        raise CheckpointError(f".metadata names {module}.{name}, which no checkpoint needs: it is not read")

    def load_build(self) -> None:
        """Sets an object's fields; a class or a shared object would keep them after this file."""
        kind = type(self.stack[-2])  # type: ignore[attr-defined]
        if kind not in _WITH_FIELDS:
            raise CheckpointError(f".metadata sets fields of a {kind.__name__}: it is not read")
        super().load_build()  # type: ignore[misc]

    dispatch: ClassVar[dict[int, Any]] = {**pickle._Unpickler.dispatch, pickle.BUILD[0]: load_build}


class TensorPlanner(DefaultLoadPlanner):
    """Loads tensors alone; the default planner unpickles byte entries."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Refuses a byte entry.

        Raises:
            CheckpointError: Always.
        """
        name = read_item.dest_index.fqn
        raise CheckpointError(f"{name} holds bytes, which could run code; checkpoints hold tensors alone")


class SafeReader(FileSystemReader):
    """A `FileSystemReader` that runs no code and opens plain files of its folder alone."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.folder = folder
        self._contents: Metadata | None = None

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The checkpoint's table of contents, checked by `check_contents`; read once.

        Raises:
            CheckpointError: It is missing, damaged or names something else than tables of contents do.
        """
        if self._contents is None:
            self._contents = self._read_contents()
        return self._contents

    def _read_contents(self) -> Metadata:
        try:
            with open_plain(self.folder / ".metadata") as file:
                data = file.read(METADATA_BYTES + 1)
            if len(data) > METADATA_BYTES:
                raise CheckpointError(f".metadata is larger than {METADATA_BYTES} bytes")
            metadata = _Unpickler(io.BytesIO(data)).load()
        except CheckpointError as error:
            raise CheckpointError(f"{self.folder}: {error}") from None
        except FileNotFoundError:
            raise CheckpointError(
                f"{self.folder}: .metadata is missing: it was not completely written"
            ) from None
        except Exception as error:  # a damaged pickle fails in any way
            why = error if isinstance(error, OSError) else type(error).__name__
            raise CheckpointError(f"{self.folder}: .metadata is damaged ({why})") from None
        if not isinstance(metadata, Metadata):
            raise CheckpointError(f"{self.folder}: .metadata holds a {type(metadata).__name__}")
        try:
            check_contents(self.folder, metadata)
        except (ValueError, OSError) as error:
            raise CheckpointError(f"{self.folder}: .metadata can't be used: {error}") from None
        except (AttributeError, TypeError) as error:  # objects without their fields
            raise CheckpointError(f"{self.folder}: .metadata is damaged ({error})") from None
        return Metadata(
            state_dict_metadata=metadata.state_dict_metadata,
            storage_data=metadata.storage_data,
            storage_meta=StorageMeta(load_id=self.load_id),
        )

    def read_tensors(self) -> dict[str, TensorStorageMetadata]:
        """Name -> size, type and chunks; raises as `read_metadata` does."""
        return cast(dict[str, TensorStorageMetadata], self.read_metadata().state_dict_metadata)

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Reads the tensors of a plan, in the order in which they lie in the files.

        Raises:
            CheckpointError: One is damaged, or no plain tensor; names it.
        """
        tensors = self.read_tensors()
        items = [(self.storage_data[item.storage_index], item) for item in plan.items]
        for place, item in sorted(items, key=lambda pair: (pair[0].relative_path, pair[0].offset)):
            if item.type != LoadItemType.TENSOR:
                planner.load_bytes(item, io.BytesIO())
            name = item.storage_index.fqn
            entry = tensors[name]
            offset = item.storage_index.offset
            chunk = next(chunk for chunk in entry.chunks if chunk.offsets == offset)
            try:
                with open_plain(self.folder / place.relative_path) as file:
                    file.seek(place.offset)
                    tensor = read_chunk(file.read(place.length), entry.properties.dtype, chunk.sizes)
            except (OSError, ValueError) as error:
                raise CheckpointError(f"{name} in {place.relative_path}: {error}") from None
            for axis, (start, length) in enumerate(zip(item.storage_offsets, item.lengths, strict=True)):
                tensor = tensor.narrow(axis, start, length)
            target = planner.resolve_tensor(item).detach()
            target.copy_(tensor)
            planner.commit_tensor(item, target)
        done: Future[None] = Future()
        done.set_result(None)
        return done
