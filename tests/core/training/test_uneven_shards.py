"""Tensors with fewer rows than ranks: some ranks hold empty shards, and the checkpoint still covers all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from vtp_core.testing import run_processes
from vtp_core.training.ranks.world import World
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


def rank_main(world: World, folder: Path) -> dict[str, torch.Tensor]:
    mesh = init_device_mesh("cpu", (world.size,))
    save(folder, 1, sharded(mesh, 1.0), recipe={})
    state = sharded(mesh, 0.0)
    load(find_latest(folder).path, state)
    return {name: value.full_tensor() for name, value in state.items() if name != "plain"}


@pytest.mark.slow
def test_empty_shards_are_saved_and_loaded(tmp_path: Path):
    for loaded in run_processes(RANKS, rank_main, tmp_path):
        assert loaded.keys() == SHAPES.keys()
        assert all(torch.equal(loaded[name], value) for name, value in whole(1.0).items())
    state = {**{name: torch.zeros_like(value) for name, value in whole(1.0).items()}, "plain": torch.zeros(3)}
    load(find_latest(tmp_path).path, state)
    assert all(torch.equal(state[name], value) for name, value in whole(1.0).items())
    assert state["plain"].tolist() == [1.0] * 3
