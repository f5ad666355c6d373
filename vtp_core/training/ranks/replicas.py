"""Comparison of what should be equal on all ranks: replicated parameters, codebooks, critics, states.

A rank that drifted (a flipped bit, another random number, an update that one rank skipped) shows no other
sign. Runs compare before each checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from vtp_core.errors import DistributedError
from vtp_core.training.ranks.rank_objects import gather_objects
from vtp_core.training.ranks.shards import local

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def check_replicas(state: Mapping[str, Tensor]) -> None:
    """Compares checksums of all tensors between the ranks that hold the same values; every rank calls it.

    Args:
        state: Name -> tensor, the same names on every rank. Plain tensors are compared between all ranks,
            DTensors between ranks that hold the same shard.

    Raises:
        DistributedError: On every rank; names the first tensor that differs and the ranks.
    """
    sums = [_checksum(local(tensor.detach())) for tensor in state.values()]
    values = torch.stack(sums).tolist() if sums else []
    shards = [_shard(tensor) for tensor in state.values()]
    per_rank = gather_objects(list(zip(shards, values, strict=True)))
    for number, name in enumerate(state):
        first: dict[tuple[int, ...], tuple[int, int]] = {}
        for rank, entries in enumerate(per_rank):
            shard, value = entries[number]
            other, expected = first.setdefault(shard, (rank, value))
            if value != expected:
                raise DistributedError(
                    f"{name} differs between rank {other} and rank {rank}: their states drifted apart; "
                    "resume from an earlier checkpoint, and with run.deterministic = true if it happens again"
                )


def _checksum(tensor: Tensor) -> Tensor:
    """Sum of the bit patterns as wrapping int64: any changed bit changes it, without a copy to the host."""
    bits = tensor.contiguous().view(_INTEGERS[tensor.element_size()])
    return bits.sum(dtype=torch.int64)


def _shard(tensor: Tensor) -> tuple[int, ...]:
    """Coordinates of this rank along the mesh dimensions that shard; equal ones hold equal values."""
    if not isinstance(tensor, DTensor):
        return ()
    place: Sequence[int] = tensor.device_mesh.get_coordinate() or ()
    return tuple(place[i] for i, placement in enumerate(tensor.placements) if placement.is_shard())
