"""Checkpoints: written atomically, verified before they are read, readable by any number of ranks.

A run's ``checkpoints`` folder holds ``step-00000100`` folders and ``latest``, a text file with the name of
the newest good one. A checkpoint is written as ``step-00000100.tmp``, described by a manifest with hashes,
flushed and renamed before ``latest`` names it. If the process is killed, earlier ones stay readable.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemWriter

from vtp_core.atomic import rename_folder, write_text
from vtp_core.errors import CheckpointError
from vtp_core.training.ranks.rank_objects import gather_objects, on_first_rank, ranks
from vtp_core.training.ranks.shards import local
from vtp_core.training.saving.folder import LATEST, find_latest, remove, rotate, verify
from vtp_core.training.saving.manifest import Manifest, list_files
from vtp_core.training.saving.safe_reader import SafeReader, TensorPlanner

__all__ = ["Saved", "find_latest", "load", "load_available", "read_into", "save", "stored_shapes", "verify"]


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A published checkpoint.

    Attributes:
        path: Its folder.
        step: Steps that were made.
        nonfinite: First tensor with a non-finite value, or None. Such a checkpoint is kept for inspection but
            never becomes ``latest``.
    """

    path: Path
    step: int
    nonfinite: str | None


def save(
    folder: Path,
    step: int,
    state: Mapping[str, Tensor],
    *,
    recipe: Mapping[str, Any],
    keep: int = 3,
    extra: Mapping[str, Any] | None = None,
) -> Saved:
    """Publishes a checkpoint; every rank calls it.

    Args:
        folder: The run's ``checkpoints`` folder, on a file system that all ranks share.
        step: Steps that were made: the index of the next one.
        state: Name -> tensor; plain tensors are equal on all ranks, DTensors are saved by shard.
        recipe: The resolved recipe as JSON data.
        keep: Newest checkpoints that stay; the newest one with finite values stays beyond them.
        extra: JSON data to keep with it.

    Returns:
        Its folder, and whether its values are finite.

    Raises:
        CheckpointError: On every rank, if it could not be written; earlier checkpoints are untouched.
    """
    rank, world_size = ranks()
    final = folder / f"step-{step:08d}"
    temporary = final.with_name(final.name + ".tmp")

    def prepare() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for left_over in folder.glob("*.tmp"):  # of a process that was killed
            remove(left_over)
        needed = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
        free = shutil.disk_usage(folder).free
        if needed * 1.02 + 2**20 > free:
            raise CheckpointError(
                f"{final}: needs {needed / 2**30:.2f} GiB, {free / 2**30:.2f} GiB are free: "
                "make room or lower run.keep_checkpoints"
            )
        temporary.mkdir()

    on_first_rank(prepare)
    nonfinite = next((name for name in gather_objects(_first_nonfinite(state)) if name is not None), None)
    failure: str | None = None
    try:
        tensors = {name: tensor.detach() for name, tensor in state.items()}
        with _without_process_group():
            state_dict_saver.save(
                tensors, storage_writer=FileSystemWriter(temporary), no_dist=world_size == 1
            )
        mine = list_files(sorted(temporary.glob(f"__{rank}_*")))
    except (CheckpointException, OSError, RuntimeError) as error:
        _pass_interrupt(error)
        failure, mine = _cause(error), {}
    # Every rank has to know of a failure: one that went on alone would hang in the next collective.
    parts = gather_objects((failure, mine))

    def publish() -> None:
        try:
            failures = [reason for reason, _ in parts if reason is not None]
            if failures:
                raise OSError(failures[0])
            files = {name: entry for _, part in parts for name, entry in part.items()}
            files.update(list_files([temporary / ".metadata"]))
            Manifest(
                step=step,
                files=files,
                recipe=recipe,
                world_size=world_size,
                nonfinite=nonfinite,
                versions={"vtp-core": _version("vtp-core"), "torch": torch.__version__},
                extra=extra or {},
            ).write(temporary)
            rename_folder(temporary, final, old=final.with_name(final.name + ".old"))
            if nonfinite is None:
                write_text(folder / LATEST, final.name + "\n")
            rotate(folder, keep)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise CheckpointError(
                f"{final}: could not be written ({error}); earlier ones are intact"
            ) from None

    on_first_rank(publish)
    return Saved(path=final, step=step, nonfinite=nonfinite)


def load(path: Path, state: Mapping[str, Tensor]) -> None:
    """Reads a checkpoint into the tensors of `state`, in place; every rank calls it.

    The number of ranks need not be the one that wrote it. Check it first (`find_latest` or `verify`).

    Args:
        path: A checkpoint's folder.
        state: Name -> live tensor, plain or DTensor.

    Raises:
        CheckpointError: Names or shapes differ, or the files can't be read.
    """
    loaded, missing, unexpected = _compare(path, state)
    if missing or unexpected:
        found = [("lacks", missing), ("has, unknown to this recipe,", unexpected)]
        text = " and ".join(f"{verb} {_some(names)}" for verb, names in found if names)
        raise CheckpointError(f"{path}: {text}: it is of another recipe or version")
    read_into(path, {name: state[name] for name in loaded})


def load_available(
    path: Path, state: Mapping[str, Tensor]
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Reads what a checkpoint has of `state`, in place; for a stage that starts from another (``init_from``).

    Args:
        path: A checkpoint's folder.
        state: Name -> live tensor.

    Returns:
        Names that were loaded, names of `state` that the checkpoint lacks, names that `state` lacks.

    Raises:
        CheckpointError: A tensor has another shape there, or the files can't be read.
    """
    loaded, missing, unexpected = _compare(path, state)
    read_into(path, {name: state[name] for name in loaded})
    return loaded, missing, unexpected


def stored_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape of all tensors of a checkpoint.

    Raises:
        CheckpointError: Its table of contents can't be read.
    """
    return {name: tuple(entry.size) for name, entry in SafeReader(path).read_tensors().items()}


def read_stored(path: Path, prefix: str) -> dict[str, Tensor]:
    """The tensors of a checkpoint whose names start with `prefix`, on the CPU.

    Raises:
        CheckpointError: The files can't be read.
    """
    stored = SafeReader(path).read_tensors().items()
    state = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in stored
        if name.startswith(prefix)
    }
    read_into(path, state)
    return state


def _compare(
    path: Path, state: Mapping[str, Tensor]
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    stored = SafeReader(path).read_tensors()
    common = tuple(name for name in state if name in stored)
    for name in common:
        size = tuple(stored[name].size)
        if size != tuple(state[name].shape):
            raise CheckpointError(
                f"{path}: {name} has shape {size}, this recipe's {tuple(state[name].shape)}"
            )
    missing = tuple(name for name in state if name not in stored)
    return common, missing, tuple(sorted(name for name in stored if name not in state))


def read_into(path: Path, state: Mapping[str, Tensor]) -> None:
    """Reads tensors that a checkpoint has in these shapes, in place; every rank calls it.

    Raises:
        CheckpointError: The files can't be read.
    """
    tensors = {name: tensor.detach() for name, tensor in state.items()}
    try:
        with _without_process_group():
            state_dict_loader.load(
                tensors, storage_reader=SafeReader(path), planner=TensorPlanner(), no_dist=ranks()[1] == 1
            )
    except (CheckpointException, OSError, RuntimeError, ValueError) as error:
        _pass_interrupt(error)
        raise CheckpointError(f"{path}: can't be read ({_cause(error)})") from None


def _first_nonfinite(state: Mapping[str, Tensor]) -> str | None:
    names = [name for name, tensor in state.items() if tensor.is_floating_point()]
    flags = [local(state[name].detach()).isfinite().all() for name in names]
    if not flags or bool(torch.stack(flags).all()):
        return None
    return next(name for name, flag in zip(names, flags, strict=True) if not flag)


@contextmanager
def _without_process_group() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is (disabled|unavailable)")
        yield


def _pass_interrupt(error: BaseException) -> None:
    """Raises the interrupt (Ctrl-C, a stop signal) that DCP wrapped as if it were damage."""
    for failure, _ in error.failures.values() if isinstance(error, CheckpointException) else ():
        if isinstance(failure, KeyboardInterrupt):
            raise failure


def _cause(error: BaseException) -> str:
    """The first line of the error's message; DCP wraps each rank's exception."""
    if isinstance(error, CheckpointException) and error.failures:
        error = next(iter(error.failures.values()))[0]
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"
