"""Joint steps of the toy networks with a critic, in float64; a module of its own for spawned ranks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.core.training.toy import DIMS, L1, ToyDecoder, ToyEncoder, ToyLinear, batches
from vtp_core.recipe.tables.optimizer import AdamWConfig
from vtp_core.training.forward.options import ForwardOptions
from vtp_core.training.joint import JointStep, StepResult
from vtp_core.training.networks import Networks
from vtp_core.training.optim.critics import Critics
from vtp_core.training.optim.guard import Guard
from vtp_core.training.optim.optimizer import MainOptimizer, build_optimizer
from vtp_core.training.optim.owners import Owner
from vtp_core.training.optim.update import Update
from vtp_core.training.ranks.parallel import build_mesh, wrap
from vtp_core.training.ranks.world import World
from vtp_core.training.saving.state import model_state, whole
from vtp_plugins.gan.config import DinoConfig, GanConfig, PatchGanConfig, StyleGanConfig
from vtp_plugins.gan.objective import Gan

PATCHES = PatchGanConfig(filters=4, layers=2)
AUGMENTED = PatchGanConfig(filters=4, layers=2, augment=("color", "translation", "cutout"))
BLOCKS = StyleGanConfig(filters=4, layers=2)
HEADS = DinoConfig(network="timm:test_vit", weights="random", size=32, taps=(1,), kernel=3)


def build(**fields: Any) -> Networks:
    """L1 on 8 rows and an adversarial loss on 4 of them, the same whenever called."""
    before = torch.get_default_dtype()
    with torch.random.fork_rng():
        torch.manual_seed(3)
        torch.set_default_dtype(torch.float64)
        try:
            config = GanConfig(**{"use": "gan", "view": "rec", "rows": 4, "weight": 0.5} | fields)
            return Networks(
                encoder=ToyEncoder(),
                bottleneck=ToyLinear(),
                decoder=ToyDecoder(),
                objectives={"gan": Gan(config, DIMS).double(), "l1": L1()},
            )
        finally:
            torch.set_default_dtype(before)


class Training:
    """A few real steps: optimisers, critic and state included."""

    def __init__(
        self, networks: Networks, world: World, *, lr: float = 1e-3, critic_lr: float = 1e-3, steps: int = 10
    ) -> None:
        wrap(networks, build_mesh(world, world.size))
        guard = Guard(max_skipped=0)
        self.networks, self.world = networks, world
        main = _optimizer(networks, networks.owners(), lr, steps)
        critic = _optimizer(networks, ["gan.critic"], critic_lr, steps)
        self.joint = JointStep(
            networks,
            world,
            ForwardOptions(total=steps),
            update=Update(networks, world, main, None, guard, steps, audited=False),
            critics=Critics(networks, world, {"gan": critic}, guard),
            guard=guard,
        )

    def step(self, index: int) -> StepResult:
        """One joint step on this rank's rows."""
        return self.joint(batches(index, rank=self.world.rank, world_size=self.world.size), index)


def _optimizer(networks: Networks, names: Any, lr: float, steps: int) -> MainOptimizer:
    owners = [Owner(name=name, parameters=networks.parameters_of(name)) for name in names]
    # A large eps: Adam would turn the rounding of gradients that are zero into steps of full size.
    return build_optimizer(owners, AdamWConfig(lr=lr, eps=1e-2, weight_decay=0.0), steps)


def train_cases(world: World, cases: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Scalars of three steps of each case, and all that a checkpoint would hold after them."""
    found: dict[str, Tensor] = {}
    for number, case in enumerate(cases):
        training = Training(build(**case), world)
        for index in range(3):
            result = training.step(index)
            assert result.skipped is None, result.skipped
            scalars = result.terms | result.report | result.gradients
            found |= {
                f"{number}|{index}|{name}": torch.tensor(value, dtype=torch.float64)
                for name, value in scalars.items()
            }
        state = whole(model_state(training.networks))
        found |= {f"{number}|state|{name}": value for name, value in state.items()}
    return found
