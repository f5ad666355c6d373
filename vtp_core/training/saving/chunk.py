"""One tensor of a checkpoint's file, as ``torch.save`` writes it: decoded without ``torch.load``.

``torch.load(weights_only=True)`` runs no code, but it inflates compressed records and trusts the sizes that
the pickle claims. Here the record must be stored as it is and have the expected number of bytes.
"""

from __future__ import annotations

import io
import math
import pickle
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}
_PICKLE_BYTES = 100_000


class _Storage(NamedTuple):
    dtype: torch.dtype
    key: str
    numel: int


class _Layout(NamedTuple):
    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _Unpickler(pickle._Unpickler):  # the one in C allocates what a memo index claims
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _layout
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        raise ValueError(f"it names {module}.{name}, which no plain tensor needs")

    def load_build(self) -> None:
        raise ValueError("it sets fields of an object, which no plain tensor needs")

    dispatch: ClassVar[dict[int, Any]] = {**pickle._Unpickler.dispatch, pickle.BUILD[0]: load_build}

    def persistent_load(self, pid: Any) -> _Storage:
        _, dtype, key, _, numel = pid
        return _Storage(dtype, key, numel)


def _layout(storage: _Storage, offset: int, size: Any, stride: Any, *_: Any) -> _Layout:
    return _Layout(storage, offset, tuple(size), tuple(stride))


def read_chunk(data: bytes, dtype: torch.dtype, size: Sequence[int]) -> Tensor:
    """The tensor in these bytes, on the CPU.

    Args:
        data: What ``torch.save`` wrote for one tensor.
        dtype: Its expected type.
        size: Its expected shape.

    Raises:
        ValueError: Damaged, or anything but one plain tensor of that type and shape.
    """
    try:
        return _read(data, dtype, tuple(size))
    except ValueError:
        raise
    except Exception as error:  # a damaged archive or pickle fails in any way
        raise ValueError(f"{type(error).__name__}: {error}") from None


def _read(data: bytes, dtype: torch.dtype, size: tuple[int, ...]) -> Tensor:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = {entry.filename.partition("/")[2]: entry for entry in archive.infolist()}
        for entry in entries.values():
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
                raise ValueError("a record is compressed")
        if entries["data.pkl"].file_size > _PICKLE_BYTES:
            raise ValueError("data.pkl is too large for one tensor")
        if "byteorder" in entries and archive.read(entries["byteorder"]) != sys.byteorder.encode():
            raise ValueError("another byte order")
        layout = _Unpickler(io.BytesIO(archive.read(entries["data.pkl"]))).load()
        count = math.prod(size)
        if not isinstance(layout, _Layout) or layout.storage.dtype != dtype or layout.size != size:
            raise ValueError(f"holds something other than a {dtype} tensor of shape {size}")
        reach = 1 + sum((n - 1) * step for n, step in zip(size, layout.stride, strict=True))
        if layout.offset != 0 or min(layout.stride, default=0) < 0 or (count > 0 and reach > count):
            raise ValueError("its strides leave its own bytes")
        if count == 0:
            return torch.empty(size, dtype=dtype)
        record = entries[f"data/{layout.storage.key}"]
        if record.file_size != count * dtype.itemsize:
            raise ValueError(f"has {record.file_size} bytes for {count} numbers")
        buffer = bytearray(archive.read(record))
    return torch.frombuffer(buffer, dtype=dtype).as_strided(size, layout.stride)
