"""Tensors with fewer rows than ranks: some ranks hold empty shards, and the checkpoint still covers all."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from vtp_core.training.saving.checkpoint import find_latest, load, save

RANKS = 3
SHAPES = {"one row": (1, 2), "two": (2,), "four": (4, 3), "none": (0, 2)}


def whole(factor: float) -> dict[str, torch.Tensor]:
    return {
        name: factor * torch.arange(1.0, 1 + torch.Size(shape).numel()).reshape(shape)
        for name, shape in SHAPES.items()
    }


def sharded(mesh: DeviceMesh, factor: float) -> dict[str, torch.Tensor]:
    shards = {name: distribute_tensor(value, mesh, [Shard(0)]) for name, value in whole(factor).items()}
    return {**shards, "plain": torch.full((3,), factor)}


def rank_main(rank: int, folder: str, port: int) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=RANKS)
    mesh = init_device_mesh("cpu", (RANKS,))
    save(Path(folder), 1, sharded(mesh, 1.0), recipe={})
    state = sharded(mesh, 0.0)
    load(find_latest(Path(folder)).path, state)
    assert all(torch.equal(state[name].full_tensor(), value) for name, value in whole(1.0).items())
    dist.barrier()
    os._exit(0)  # gloo may abort at interpreter exit


@pytest.mark.slow
def test_empty_shards_are_saved_and_loaded(tmp_path: Path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(rank_main, args=(str(tmp_path), port), nprocs=RANKS)
    state = {**{name: torch.zeros_like(value) for name, value in whole(1.0).items()}, "plain": torch.zeros(3)}
    load(find_latest(tmp_path).path, state)
    assert all(torch.equal(state[name], value) for name, value in whole(1.0).items())
    assert state["plain"].tolist() == [1.0] * 3
