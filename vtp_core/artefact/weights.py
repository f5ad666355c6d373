"""Weights in safetensors files; names, types and shapes are checked before tensors are read."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vtp_core.artefact.compact import restore, restored_types
from vtp_core.errors import CheckpointError, UsageError

HEADER_BYTES = 16_000_000
"""Largest header that is parsed."""

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def write_weights(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes tensors, each with its own storage: tied tensors are stored twice.

    Args:
        path: The file.
        tensors: Name -> tensor on any device.
        metadata: Text for the file's header.

    Raises:
        OSError: It can't be written; a file that was there is as it was.
        UsageError: Its path is not UTF-8.
    """
    require_utf8(path)
    new = not path.exists()
    path.touch()
    mode = path.stat().st_mode
    try:
        save_file(
            {
                name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
                for name, tensor in sorted(tensors.items())
            },
            path,
            metadata={"format": "pt", **(metadata or {})},
        )
    except SafetensorError as error:
        if new:
            path.unlink()
        if (match := re.search(r"\(os error (\d+)\)", str(error))) is None:
            raise
        raise OSError(int(match[1]), os.strerror(int(match[1])), str(path)) from error
    # safetensors creates files with mode 600; use the mode of other new files.
    path.chmod(mode)


def require_utf8(path: Path) -> None:
    """Refuses a path that safetensors can't open.

    Raises:
        UsageError: It is not UTF-8.
    """
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError:
        raise UsageError(f"{path}: safetensors files need a path in UTF-8; move or rename it") from None


def read_header(path: Path) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Names, types and shapes of a file's tensors; allocates nothing by the sizes that the header names.

    Raises:
        CheckpointError: Missing, or not a complete safetensors file.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: missing; the artefact is incomplete, copy or export it again")
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, HEADER_BYTES):
            raise CheckpointError(f"{path}: not a safetensors file, or cut short; copy or export it again")
        try:
            entries = json.loads(file.read(length).decode("utf-8"))
            header = {
                name: _entry(entry, size - 8 - length)
                for name, entry in entries.items()
                if name != "__metadata__"
            }
        except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"{path}: damaged header ({type(error).__name__}: {error}); export it again"
            ) from error
    return header


def _entry(entry: Mapping[str, object], data_bytes: int) -> tuple[torch.dtype, tuple[int, ...]]:
    dtype = _DTYPES[str(entry["dtype"])]
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not isinstance(shape, list) or not isinstance(offsets, list) or len(offsets) != 2:
        raise ValueError("shape and data_offsets must be lists")
    if not all(type(number) is int and number >= 0 for number in [*shape, *offsets]):
        raise ValueError("sizes must be whole numbers")
    start, end = offsets
    if not start <= end <= data_bytes or math.prod(shape) * dtype.itemsize != end - start:
        raise ValueError("a tensor does not fit its bytes")
    return dtype, tuple(shape)


def check_header(path: Path, expected: Mapping[str, Tensor]) -> None:
    """Checks names, shapes and types of a file; `read_weights` says what is compared.

    Raises:
        CheckpointError: They differ, or the file is no whole safetensors file.
    """
    check_tensors(path, restored_types(read_header(path)), expected)


def check_tensors(
    path: Path, found: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], expected: Mapping[str, Tensor]
) -> None:
    """Checks that names, shapes and types of a file's tensors are those of a model.

    Args:
        path: The file, for the message.
        found: Name -> type and shape of what the file holds.
        expected: Name -> a tensor of the model; floating types may differ in width.

    Raises:
        CheckpointError: They differ.
    """
    missing = sorted(expected.keys() - found.keys())
    surplus = sorted(found.keys() - expected.keys())
    if missing or surplus:
        raise CheckpointError(
            f"{path}: missing {_some(missing)}; unexpected {_some(surplus)}; "
            "config.json and weights are of different models"
        )
    for name, (dtype, shape) in found.items():
        want = expected[name]
        same_kind = dtype == want.dtype or (dtype.is_floating_point and want.is_floating_point())
        if shape != tuple(want.shape) or not same_kind:
            raise CheckpointError(
                f"{path}: {name} is {dtype} {list(shape)}, the model needs {want.dtype} {list(want.shape)}; "
                "config.json and weights are of different models"
            )


def read_weights(path: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a file that has exactly the expected names and shapes.

    Args:
        path: A safetensors file.
        expected: Name -> a tensor of the expected shape and type, on any device; floating types may differ
            in width, and matrices may be stored as integers with scales (`vtp_core.artefact.compact`).

    Raises:
        CheckpointError: Names, shapes or types differ, or the file is damaged.
    """
    require_utf8(path)
    check_header(path, expected)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return restore({name: file.get_tensor(name) for name in file.keys()})
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: damaged ({error}); copy or export it again") from error


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    if not names:
        return "nothing"
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
