"""Toy runs with the real optimisers, critics and EMA copies, whole or halved, on any number of ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from tests.core.training.toy import batches, build
from vtp_core.config import OptimizerConfig
from vtp_core.errors import DistributedError
from vtp_core.features import Losses
from vtp_core.plugins import Plugins
from vtp_core.recipe.tables.optimizer import AdamWConfig
from vtp_core.training.forward.options import ForwardOptions
from vtp_core.training.joint import JointStep, StepResult
from vtp_core.training.networks import PARTS, Networks
from vtp_core.training.optim.critics import Critics
from vtp_core.training.optim.ema import build_ema
from vtp_core.training.optim.guard import Guard
from vtp_core.training.optim.optimizer import build_optimizer
from vtp_core.training.optim.owners import Owner
from vtp_core.training.optim.update import Update
from vtp_core.training.ranks.parallel import build_mesh, wrap
from vtp_core.training.ranks.replicas import check_replicas
from vtp_core.training.ranks.world import World
from vtp_core.training.saving.checkpoint import load, save
from vtp_core.training.saving.state import training_state, whole

TOTAL = 10
MAIN = AdamWConfig(lr=1e-2, weight_decay=0.1, clip=0.5)
CRITIC = AdamWConfig(lr=5e-3, betas=(0.5, 0.9), weight_decay=0.0, clip=1.0)


class ToyRun:
    """A run of a toy scenario.

    Args:
        world: This rank.
        kind: The scenario.
        late: Objectives that start at step 3.
        shard: Ranks that share a copy of the parameters; None: all.
        config: Table of the main optimiser.
        plugins: Where its algorithm is looked up.
        options: More of `ForwardOptions`.
    """

    def __init__(
        self,
        world: World,
        kind: str = "vtp",
        *,
        vq: bool = True,
        late: tuple[str, ...] = ("clip",),
        shard: int | None = None,
        networks: Networks | None = None,
        checkpoint: bool = False,
        config: OptimizerConfig = MAIN,
        plugins: Plugins | None = None,
        **options,
    ) -> None:
        self.world, self.networks = world, networks or build(kind, vq=vq)
        for name in late:
            objective = self.networks.objectives[name]
            objective.config = objective.config.model_copy(update={"start": 3})
        self.ema = build_ema(self.networks, 0.9)
        wrap(
            self.networks,
            build_mesh(world, shard or world.size),
            activation_checkpoint="block" if checkpoint else "none",
        )
        owners = []
        for name in self.networks.owners():
            module = self.networks.part(name) if name in PARTS else self.networks.objectives[name]
            prefix = f"tokenizer.{name}." if name in PARTS else f"objectives.{name}."
            owners.append(
                Owner(
                    name=name,
                    parameters=self.networks.parameters_of(name),
                    rules=module.rules(),
                    prefix=prefix,
                    in_blocks=self.networks.block_parameters(name),
                )
            )
        self.optimizer = build_optimizer(owners, config, TOTAL, plugins)
        self.critic_optimizers = {}
        for name in self.networks.adversaries():
            owner = f"{name}.critic"
            critic = Owner(
                name=owner, parameters=self.networks.parameters_of(owner), prefix=f"objectives.{owner}."
            )
            self.critic_optimizers[name] = build_optimizer([critic], CRITIC, TOTAL)
        self.guard = Guard(max_skipped=1)
        self.joint = JointStep(
            self.networks,
            world,
            ForwardOptions(total=TOTAL, **options),
            Update(self.networks, world, self.optimizer, self.ema, self.guard, TOTAL),
            Critics(self.networks, world, self.critic_optimizers, self.guard),
            self.guard,
        )

    def step(self, index: int) -> StepResult:
        """One joint step on this rank's rows."""
        return self.joint(batches(index, rank=self.world.rank, world_size=self.world.size), index)

    def live(self) -> dict[str, Tensor]:
        """What a checkpoint holds."""
        return training_state(self.networks, self.ema, self.optimizer, self.critic_optimizers)

    def state(self) -> dict[str, Tensor]:
        """Whole copies of it."""
        return {name: tensor.clone() for name, tensor in whole(self.live()).items()}


def numbers(results: Mapping[int, StepResult]) -> dict[str, Tensor]:
    """All that was logged, as tensors."""
    found = {}
    for index, result in results.items():
        logged = {**result.terms, **result.report, **result.gradients}
        logged |= {f"weighted/{name}": value for name, value in result.weighted.items()}
        found |= {
            f"{index}|{name}": torch.tensor(value, dtype=torch.float64) for name, value in logged.items()
        }
    return found


def halves(
    world: World, read: Path | None, write: Path | None, steps: range, shard: int | None = None
) -> dict[str, Tensor]:
    """Some steps of the run, from a checkpoint or from the start, to a checkpoint or the end."""
    run = ToyRun(world, microbatch_rows=3, shard=shard)
    if read is not None:
        load(read / f"step-{steps.start:08d}", run.live())
    results = {index: run.step(index) for index in steps}
    check_replicas(run.live())
    if write is not None:
        save(write, steps.stop, run.live(), recipe={})
    return numbers(results) | run.state()


def spoil(run: ToyRun, name: str, how: str, ranks: tuple[int, ...]) -> Callable[[], None]:
    """Makes an objective's next terms bad on some ranks: `loss`, `gradient` or `critic`; returns the undo."""
    objective = run.networks.objectives[name]
    method = "critic_loss" if how == "critic" else "forward"
    before = getattr(objective, method)

    def bad(step) -> Losses:
        losses = before(step)
        if run.world.rank not in ranks:
            return losses
        term, value = next(iter(losses.terms.items()))
        # A root of zero has an infinite slope and a finite value.
        spoilt = value + (value * 0).abs().sqrt() if how == "gradient" else value * float("nan")
        return Losses(terms={**losses.terms, term: spoilt}, report=losses.report, tally=losses.tally)

    setattr(objective, method, bad)
    return lambda: delattr(objective, method)


def skipped_steps(world: World) -> dict[str, Tensor]:
    """Steps 3 and 5, with a spoilt one at 4: what moved, why it was skipped, and the numbers of step 5."""
    found: dict[str, Tensor] = {}
    last = world.size - 1
    for name, how in (("gan", "loss"), ("koleo", "gradient")):
        run = ToyRun(world, late=())
        assert run.step(3).skipped is None
        before = run.state()
        undo = spoil(run, name, how, (last,))
        result = run.step(4)
        undo()
        assert result.skipped is not None, (name, how)
        expected = f"loss {name}/" if how == "loss" else "gradient of "
        assert result.skipped.startswith(expected), result.skipped
        after = run.state()
        moved = [key for key, tensor in after.items() if not torch.equal(tensor, before[key])]
        assert not moved, (name, how, moved)
        found |= {f"{name}|{how}|{key}": value for key, value in numbers({5: run.step(5)}).items()}
        found |= {f"{name}|{how}|{key}": value for key, value in run.state().items()}
    return found


def bad_critic(world: World) -> dict[str, Tensor]:
    """A critic's loss that is not finite on one rank leaves the critic alone on all of them."""
    run = ToyRun(world, late=())
    run.step(3)
    before = run.state()
    undo = spoil(run, "gan", "critic", (world.size - 1,))
    result = run.step(4)
    undo()
    assert result.skipped is not None and "loss gan.critic/" in result.skipped
    assert "only that critic's update" in result.skipped
    after = run.state()
    critic = [key for key in after if ".critic." in key]
    assert critic and all(torch.equal(after[key], before[key]) for key in critic)
    assert run.step(5).skipped is None
    check_replicas(run.live())
    return {}


def drifted(world: World) -> dict[str, Tensor]:
    """A codebook that differs on one rank is found before it is saved."""
    run = ToyRun(world, late=())
    run.step(0)
    if world.rank == 1:
        run.networks.bottleneck.codebook[3, 2] += 1e-12
    try:
        check_replicas(run.live())
    except DistributedError as error:
        assert "tokenizer.bottleneck.codebook differs between rank 0 and rank 1" in str(error)
        return {}
    raise AssertionError("the drift was not noticed")


def on_two_ranks(world: World, one: Path, two: Path) -> dict[str, Tensor]:
    """All that two ranks have to show, in one start of the processes."""
    first = halves(world, None, two, range(3))
    second = halves(world, one, None, range(3, 6))
    replicated = halves(world, None, None, range(3), shard=1)
    whole_steps = skipped_steps(world)
    return (
        {f"first|{name}": value for name, value in first.items()}
        | {f"second|{name}": value for name, value in second.items()}
        | {f"replicated|{name}": value for name, value in replicated.items()}
        | {f"skipped|{name}": value for name, value in whole_steps.items()}
        | bad_critic(world)
        | drifted(world)
    )
