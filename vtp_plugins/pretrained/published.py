"""Files that other projects published, read without running code in them and matched name by name."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vtp_core.artefact.config import CONFIG_BYTES, read_json
from vtp_core.artefact.weights import check_tensors, read_header, require_utf8
from vtp_core.errors import CheckpointError

SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")
"""Endings of files of weights: safetensors, and what ``torch.save`` wrote."""
MOST_FILES = 32
"""A folder of more files of a kind is no published model, and they are not opened to find out."""


def files_of(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """The files of a folder with such endings, by name; none if there are more than `MOST_FILES`."""
    found = sorted(file for file in folder.iterdir() if file.suffix in suffixes and file.is_file())
    return found if len(found) <= MOST_FILES else []


def read_tensors(path: Path, entries: Sequence[str] = ()) -> dict[str, Tensor]:
    """The named tensors of a file, on the CPU.

    Args:
        path: Safetensors, or a file of ``torch.save``, which is read with ``weights_only=True``: it can name
            tensors and plain containers alone.
        entries: Keys under which such a file may hold the tensors, outermost first; one that it lacks is
            left out.

    Raises:
        CheckpointError: Missing, damaged, holds anything but tensors, or claims more than its size.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        require_utf8(path)
        read_header(path)
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path}: damaged ({error}); copy it again") from error
    content = unpickled(path)
    for entry in entries:
        content = content.get(entry, content) if isinstance(content, Mapping) else content
    return checked(content, path)


def checked(content: Any, path: Path) -> dict[str, Tensor]:
    """Named tensors in what `unpickled` returned.

    Raises:
        CheckpointError: It is anything else, or the tensors are larger than the file.
    """
    if not isinstance(content, Mapping) or not content or not all(map(_named, content.items())):
        raise CheckpointError(f"{path}: holds something other than named tensors; save the state dict alone")
    limit = 4 * path.stat().st_size  # tied weights count once each
    if sum(tensor.numel() * tensor.element_size() for tensor in content.values()) > limit:
        raise CheckpointError(f"{path}: its tensors are larger than the file; it is not read")
    return dict(content)


def read_table(path: Path, entry: str) -> dict[str, Any]:
    """The plain table, such as training arguments, beside the tensors in a file of ``torch.save``.

    Args:
        path: The file, read as by `read_tensors`; its tensors are not.
        entry: Its key in the file.

    Raises:
        CheckpointError: Damaged, or there is no such table.
    """
    content = unpickled(path, mapped=True)
    table = content.get(entry) if isinstance(content, Mapping) else None
    if not isinstance(table, Mapping):
        raise CheckpointError(f"{path}: there is no table {entry!r} in it, which says what its tensors mean")
    return {str(key): value for key, value in table.items()}


def tensor_names(path: Path, entries: Sequence[str] = ()) -> frozenset[str]:
    """Names of a file's tensors, of which little is read; empty if it can't be read. See `read_tensors`."""
    try:
        if path.suffix == ".safetensors":
            return frozenset(read_header(path))
        content = unpickled(path, mapped=True)
    except CheckpointError:
        return frozenset()
    for entry in entries:
        content = content.get(entry, content) if isinstance(content, Mapping) else content
    return frozenset(map(str, content)) if isinstance(content, Mapping) else frozenset()


def matched(
    path: Path, state: Mapping[str, Tensor], expected: Mapping[str, Tensor], ignored: Sequence[str] = ()
) -> dict[str, Tensor]:
    """The tensors that a model needs, checked: none is missing, foreign or misshapen.

    Args:
        path: The file, for the message.
        state: What `read_tensors` returned.
        expected: Name -> a tensor of the model, on any device; floating types may differ in width.
        ignored: How the names begin of what the file may hold besides.

    Raises:
        CheckpointError: They differ.
    """
    own = {
        name: tensor
        for name, tensor in state.items()
        if name in expected or not name.startswith(tuple(ignored))
    }
    check_tensors(path, {name: (t.dtype, tuple(t.shape)) for name, t in own.items()}, expected)
    return own


def read_settings(path: Path) -> dict[str, Any]:
    """The table in a JSON or YAML file.

    Raises:
        CheckpointError: Missing, too large, or no table.
    """
    if path.suffix == ".json":
        return read_json(path)
    if not path.is_file() or path.stat().st_size > CONFIG_BYTES:
        raise CheckpointError(f"{path}: missing, or larger than {CONFIG_BYTES} bytes; not a configuration")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not YAML ({str(error).splitlines()[0]})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: no table of settings")
    return content


def unpickled(path: Path, *, mapped: bool = False) -> Any:
    """What ``torch.save`` wrote: tensors and plain containers; nothing in it is executed.

    Args:
        path: The file.
        mapped: Tensors are read when they are used.

    Raises:
        CheckpointError: Damaged, holds anything else, or unpacks to more than its size.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if sum(entry.file_size for entry in archive.infolist()) > 2 * path.stat().st_size:
                    raise ValueError("it unpacks to more than its size")
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # what a damaged or hostile pickle raises
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path}: no file of plain tensors ({reason}); nothing in it was executed, save a state dict"
        ) from error


def _named(item: tuple[Any, Any]) -> bool:
    return isinstance(item[0], str) and isinstance(item[1], Tensor) and not item[1].is_sparse
