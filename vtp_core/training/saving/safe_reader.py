"""Reads checkpoints of torch.distributed.checkpoint without trusting them.

Their tensors are read with ``weights_only=True``, but ``.metadata`` is a plain pickle, which could run code.
Here only the classes that such a file needs can be named in it.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta

from vtp_core.errors import CheckpointError

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


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if (module, name) in _ALLOWED or dtype:
            return super().find_class(module, name)
        raise CheckpointError(f".metadata names {module}.{name}, which no checkpoint needs: it is not read")


class SafeReader(FileSystemReader):
    """A `FileSystemReader` whose metadata can't run code."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.folder = folder

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The checkpoint's table of contents.

        Raises:
            CheckpointError: It is missing, damaged or names something else than tables of contents do.
        """
        try:
            with (self.folder / ".metadata").open("rb") as file:
                metadata = _Unpickler(file).load()
        except CheckpointError as error:
            raise CheckpointError(f"{self.folder}: {error}") from None
        except FileNotFoundError:
            raise CheckpointError(
                f"{self.folder}: .metadata is missing: it was not completely written"
            ) from None
        except Exception as error:  # a damaged pickle fails in any way
            raise CheckpointError(f"{self.folder}: .metadata is damaged ({type(error).__name__})") from None
        if not isinstance(metadata, Metadata):
            raise CheckpointError(f"{self.folder}: .metadata holds a {type(metadata).__name__}")
        if metadata.storage_meta is None:
            metadata.storage_meta = StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata
