"""Clipping, EMA and checkpoints on sharded parameters: real gloo processes against one process in float64.

Sizes are odd on purpose: shards are uneven, and with four ranks some are empty.
"""

from __future__ import annotations

import resource
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from vtp_core.errors import CheckpointError, DistributedError
from vtp_core.parameters import ParamRule
from vtp_core.testing import run_processes
from vtp_core.training.optim.ema import Ema
from vtp_core.training.optim.optimizer import Owner, build_optimizer
from vtp_core.training.ranks.replicas import check_replicas
from vtp_core.training.ranks.shards import local
from vtp_core.training.ranks.world import World
from vtp_core.training.saving.checkpoint import find_latest, load, load_available, save, verify

pytestmark = [pytest.mark.distributed, pytest.mark.slow]
STEPS = 4
ROWS = 8


class Model(nn.Module):
    """An encoder of odd sizes, to be sharded, and a head that stays replicated."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(
            nn.Linear(17, 33), nn.GELU(), nn.LayerNorm(33), nn.Linear(33, 3)
        ).double()
        self.head = nn.Linear(3, 2).double()

    def forward(self, x):
        return self.head(self.encoder(x)).pow(2).mean() * 30


class Run:
    """One rank's half of a training: the same code sharded or not."""

    def __init__(self, world_size: int, rank: int, shard: int | None, scope: str) -> None:
        self.model, self.world_size, self.rank = Model(), world_size, rank
        self.ema = Ema({"tokenizer.encoder": self.model.encoder}, 0.9)
        if shard is not None:
            mesh = init_device_mesh(
                "cpu", (world_size // shard, shard), mesh_dim_names=("replicate", "shard")
            )
            for encoder in (self.model.encoder, self.ema.modules["tokenizer.encoder"]):
                fully_shard(encoder, mesh=mesh)
        owners = [
            Owner(
                name=name,
                parameters={f"{prefix}{key}": value for key, value in module.named_parameters()},
                rules=[ParamRule(pattern="3.bias", lr=0.5, clamp=(-0.05, 0.05))],
                prefix=prefix,
            )
            for name, prefix, module in (
                ("encoder", "tokenizer.encoder.", self.model.encoder),
                ("toy", "objectives.toy.", self.model.head),
            )
        ]
        config = SimpleNamespace(
            lr=1e-2, weight_decay=0.1, betas=(0.9, 0.95), eps=1e-8, clip=0.5, clip_scope=scope, use="adamw"
        )
        self.optimizer = build_optimizer(owners, config, 100)
        self.norms: list[float] = []

    def state(self) -> dict[str, torch.Tensor]:
        encoder, head = self.model.encoder.state_dict(), self.model.head.state_dict()
        return {
            **{f"tokenizer.encoder.{name}": value for name, value in encoder.items()},
            **{f"objectives.toy.{name}": value for name, value in head.items()},
            **self.optimizer.state_tensors(),
            **self.ema.state_tensors(),
        }

    def train(self, start: int, stop: int) -> None:
        for index in range(start, stop):
            generator = torch.Generator().manual_seed(index)
            rows = torch.randn(ROWS, 17, generator=generator, dtype=torch.float64)
            self.model(rows[self.rank :: self.world_size]).backward()
            if self.world_size > 1:
                for value in self.model.head.parameters():
                    dist.all_reduce(value.grad)
                    value.grad /= self.world_size
            self.optimizer.set_schedules(index)
            clipped = self.optimizer.clip()
            self.norms += [clipped.norm, *clipped.norms.values(), *clipped.factors.values()]
            self.optimizer.step()
            self.optimizer.clamp()
            self.optimizer.zero_grad()
            self.ema.update(index, 100)

    def full_state(self) -> dict[str, torch.Tensor]:
        return {
            name: (value.full_tensor() if hasattr(value, "full_tensor") else value).detach().clone()
            for name, value in self.state().items()
        }


CASES = {"global": 1, "owner": 2}
"""Clip scope -> copies of the parameters; the other mesh dimension shards."""


def rank_main(world: World, folder: Path, part: str) -> dict[str, torch.Tensor]:
    for scope, copies in CASES.items():
        run = Run(world.size, world.rank, world.size // copies, scope)
        {"first": train_and_save, "second": resume}[part](run, folder / scope)
    return {}


def train_and_save(run: Run, folder: Path) -> None:
    run.train(0, STEPS)
    drifts = [drift(run, name) for name in ("", "objectives.toy.bias", "tokenizer.encoder.0.weight")]
    (folder / f"drift-{run.rank}.txt").write_text("\n".join(drifts))
    torch.save({"norms": run.norms, "state": run.full_state()}, folder / f"first-{run.rank}.pt")
    save(folder / "run", STEPS, run.state(), recipe={"a": 1})
    # A rank that can't write: all ranks get the error, nothing is published.
    if run.rank == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
    try:
        save(folder / "run", STEPS + 1, run.state(), recipe={"a": 1})
        outcome = "published"
    except CheckpointError as error:
        outcome = str(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    (folder / f"failed-{run.rank}.txt").write_text(outcome)


def drift(run: Run, name: str) -> str:
    """What the comparison of replicas says when the last rank's copy of a tensor has one changed bit."""
    state = dict(run.state())
    if name:
        value = local(state[name].detach())
        if run.rank == run.world_size - 1:
            value.view(torch.int64).view(-1)[0] ^= 1
    try:
        check_replicas(state)
        return "equal"
    except DistributedError as error:
        return str(error)
    finally:
        if name and run.rank == run.world_size - 1:
            value.view(torch.int64).view(-1)[0] ^= 1


def resume(run: Run, folder: Path) -> None:
    with torch.no_grad():
        for value in run.state().values():
            value.fill_(7)
    load(find_latest(folder / "run").path, run.state())
    loaded = run.full_state()
    run.train(STEPS, STEPS + 3)
    torch.save({"loaded": loaded, "state": run.full_state()}, folder / f"second-{run.rank}.pt")


def single(scope: str) -> Run:
    return Run(1, 0, None, scope)


def close(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=1e-10, atol=1e-12, msg=name)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """What two ranks wrote, and then four that went on from it."""
    folder = tmp_path_factory.mktemp("ranks")
    for scope in CASES:
        (folder / scope).mkdir()
    run_processes(2, rank_main, folder, "first")
    run_processes(4, rank_main, folder, "second")
    return folder


def written(files: Path, scope: str, part: str, ranks: int) -> list[dict]:
    return [torch.load(files / scope / f"{part}-{rank}.pt", weights_only=True) for rank in range(ranks)]


@pytest.mark.parametrize("scope", CASES)
def test_two_ranks_train_as_one(files, scope):
    oracle = single(scope)
    oracle.train(0, STEPS)
    for ours in written(files, scope, "first", 2):
        assert ours["norms"] == pytest.approx(oracle.norms, rel=1e-10)
        close(ours["state"], oracle.full_state())
    assert min(oracle.norms) < 0.5 < max(oracle.norms)  # clipping did something


@pytest.mark.parametrize("scope", CASES)
def test_one_rank_goes_on_from_two(files, scope):
    path = find_latest(files / scope / "run").path
    assert verify(path).world_size == 2
    resumed, oracle = single(scope), single(scope)
    load(path, resumed.state())
    saved = written(files, scope, "first", 1)[0]["state"]
    assert all(torch.equal(value, saved[name]) for name, value in resumed.full_state().items())
    oracle.train(0, STEPS + 3)
    resumed.train(STEPS, STEPS + 3)
    close(resumed.full_state(), oracle.full_state())


@pytest.mark.parametrize("scope", CASES)
def test_four_ranks_go_on_from_two(files, scope):
    saved = written(files, scope, "first", 1)[0]["state"]
    oracle = single(scope)
    oracle.train(0, STEPS + 3)
    for ours in written(files, scope, "second", 4):
        assert all(torch.equal(value, saved[name]) for name, value in ours["loaded"].items())
        close(ours["state"], oracle.full_state())


@pytest.mark.parametrize("scope", CASES)
def test_all_ranks_hear_of_one_that_can_not_write(files, scope):
    for rank in range(2):
        assert "could not be written" in (files / scope / f"failed-{rank}.txt").read_text()
    assert sorted(path.name for path in (files / scope / "run").iterdir()) == ["latest", f"step-{STEPS:08d}"]


@pytest.mark.parametrize("scope", CASES)
def test_a_rank_that_drifted_is_seen_by_all(files, scope):
    for rank in range(2):
        clean, plain, sharded = (files / scope / f"drift-{rank}.txt").read_text().splitlines()
        assert clean == "equal"
        assert plain.startswith("objectives.toy.bias differs between rank 0 and rank 1")
        if CASES[scope] == 1:  # each rank has a shard of its own: there is nothing to compare
            assert sharded == "equal"
        else:
            assert sharded.startswith("tokenizer.encoder.0.weight differs between rank 0 and rank 1")


def test_a_stage_takes_the_part_that_it_has(files):
    part = {name: value for name, value in single("global").state().items() if name.startswith("tokenizer.")}
    loaded, missing, unexpected = load_available(find_latest(files / "global" / "run").path, part)
    assert set(loaded) == set(part) and not missing
    assert {name.split(".")[0] for name in unexpected} == {"objectives", "optimizer", "ema"}
