"""Files that other projects published, read without running code in them and matched name by name."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

import vtp_core
from vtp_core.artefact.assembly import assemble
from vtp_core.artefact.config import ArtefactConfig
from vtp_core.artefact.outline import outline
from vtp_core.artefact.weights import check_tensors, read_header, require_utf8
from vtp_core.config import Table
from vtp_core.errors import CheckpointError
from vtp_core.plugins import load_plugins
from vtp_core.tokenizer import Tokenizer
from vtp_plugins.pretrained.settings import Shapes, files_of

SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")
"""Endings of files of weights: safetensors, and what ``torch.save`` wrote."""


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


def weights_file(
    path: Path, marks: frozenset[str], entries: Sequence[str] = (), besides: Sequence[str] = ()
) -> Path | None:
    """The file of weights itself, or the only one of a folder, that holds tensors of the names `marks`.

    Args:
        path: The file or folder.
        marks: Names by which the weights are known.
        entries: See `read_tensors`.
        besides: Names of files that are none, whatever they hold.
    """
    files = [file for file in files_of(path, SUFFIXES) if file.name not in besides]
    found = [file for file in files if tensor_names(file, entries) >= marks]
    return found[0] if len(found) == 1 else None


def shapes_of(state: Mapping[str, Tensor]) -> Shapes:
    """Name -> shape of tensors."""
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def config_of(networks: Table, image_size: int, **numbers: Any) -> ArtefactConfig:
    """The config of a tokenizer that was read.

    Args:
        networks: The tables ``encoder``, ``bottleneck`` and ``decoder``.
        image_size: Side of its images.
        numbers: Further keys: the statistics of its latents.

    Raises:
        pydantic.ValidationError: A number is not allowed.
    """
    tables = networks.model_dump(mode="json")
    return ArtefactConfig(vtp_version=vtp_core.__version__, image_size=image_size, **tables, **numbers)


def read_tokenizer(
    config: ArtefactConfig,
    path: Path,
    state: Mapping[str, Tensor],
    published: Callable[[Tokenizer], Mapping[str, Tensor]],
    ignored: Sequence[str] = (),
) -> Tokenizer:
    """The tokenizer of a config with the tensors of a file, in eval mode on the CPU.

    Args:
        config: Its config.
        path: The file, for messages.
        state: What `read_tensors` returned.
        published: Published name -> tensor of a tokenizer.
        ignored: See `matched`.

    Raises:
        CheckpointError: A tensor is missing, foreign or misshapen.
    """
    plugins = load_plugins()
    weights = matched(path, state, published(outline(config, plugins, shapes_of(state))), ignored)
    model = assemble(config, plugins)
    for name, tensor in published(model).items():
        tensor.copy_(weights[name])
    return model


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
