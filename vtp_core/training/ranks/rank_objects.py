"""Exchange of small Python objects between ranks, so that all of them go on or stop together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

from vtp_core import errors
from vtp_core.errors import CheckpointError, known_error

_T = TypeVar("_T")


def ranks() -> tuple[int, int]:
    """This rank and the number of ranks; (0, 1) without a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def gather_objects(value: _T) -> list[_T]:
    """The objects of all ranks, by rank."""
    world_size = ranks()[1]
    if world_size == 1:
        return [value]
    values: list[Any] = [None] * world_size
    dist.all_gather_object(values, value)
    return values


def on_first_rank(action: Callable[[], _T], group: dist.ProcessGroup | None = None) -> _T:
    """Runs `action` on rank 0 and returns its result on every rank.

    Args:
        action: Returns something that pickle can copy.
        group: Process group of all ranks; None: the default one.

    Raises:
        VtpError: On the other ranks, what rank 0 raised, as the nearest class of `vtp_core.errors`, else as
            CheckpointError; rank 0 raises its own exception.
    """
    rank, world_size = ranks()
    box: list[Any] = [None, None]
    failure: Exception | None = None
    if rank == 0:
        try:
            box[0] = action()
        except Exception as error:  # of any kind: the other ranks wait for an answer
            failure, box[1] = error, _public(error)
    if world_size > 1:
        dist.broadcast_object_list(box, src=0, group=group)
    if failure is not None:
        raise failure
    if box[1] is not None:
        kind, message = box[1]
        raise kind(message)
    result: _T = box[0]
    return result


def _public(error: Exception) -> tuple[type[Exception], str]:
    known = known_error(error) or error
    kinds = (kind for kind in type(known).__mro__ if kind.__module__ == errors.__name__)
    return next(kinds, CheckpointError), str(known)
