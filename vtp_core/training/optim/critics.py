"""Optimisers of the critics: one step each after the main step."""

from __future__ import annotations

from collections.abc import Mapping

from vtp_core.errors import UsageError
from vtp_core.features import Tally
from vtp_core.plugins import Plugins
from vtp_core.recipe.tables.adversarial import AdversarialConfig
from vtp_core.training.networks import Networks
from vtp_core.training.optim.guard import Guard
from vtp_core.training.optim.optimizer import MainOptimizer, build_optimizer
from vtp_core.training.optim.owners import Owner
from vtp_core.training.optim.skip import SkipStep
from vtp_core.training.ranks.parallel import reduce_replicated
from vtp_core.training.ranks.tallies import reduce_tally
from vtp_core.training.ranks.world import World


def build_critic_optimizers(
    networks: Networks, total_steps: int, plugins: Plugins | None = None
) -> dict[str, MainOptimizer]:
    """Objective -> the optimiser of its critic; after sharding.

    Args:
        networks: The run's modules.
        total_steps: Steps of the run, for schedules.
        plugins: Where algorithms are looked up; None: only the core's own.

    Raises:
        UsageError: An objective with a critic has a table without `critic_optimizer`, or no plugin offers its
            algorithm.
    """
    optimizers = {}
    for name, objective in networks.adversaries().items():
        config = objective.config
        if not isinstance(config, AdversarialConfig):
            raise UsageError(f"objective {name!r} has a critic: its table must be an AdversarialConfig")
        owner = f"{name}.critic"
        parameters = networks.parameters_of(owner)
        critic = Owner(
            name=owner,
            parameters=parameters,
            prefix=f"objectives.{owner}.",
            in_blocks=networks.block_parameters(owner),
        )
        optimizers[name] = build_optimizer([critic], config.critic_optimizer, total_steps, plugins)
    return optimizers


class Critics:
    """The critics' optimisers.

    Args:
        networks: The run's modules.
        world: This rank.
        optimizers: Objective -> optimiser over its critic's parameters.
        guard: Refuses non-finite gradients.
    """

    def __init__(
        self, networks: Networks, world: World, optimizers: Mapping[str, MainOptimizer], guard: Guard
    ) -> None:
        self.networks, self.world, self.optimizers, self.guard = networks, world, optimizers, guard

    def update(self, objective: str, index: int, tally: Tally | None = None) -> dict[str, float]:
        """Averages a critic's gradients over ranks, clips them, steps, and calls `after_critic_step`.

        Args:
            objective: Its name.
            index: The step.
            tally: This rank's counts of `critic_loss`.

        Returns:
            ``grad_norm/<objective>.critic``.

        Raises:
            SkipStep: A gradient is not finite; the critic was not updated.
        """
        owner = f"{objective}.critic"
        optimizer = self.optimizers[objective]
        optimizer.set_schedules(index)
        reduce_replicated(self.networks, [owner], self.world)
        clipped = optimizer.clip()
        if (reason := self.guard.check_gradients(clipped.norms)) is not None:
            raise SkipStep(reason)
        self.guard.audit(owner, self.networks.parameters_of(owner))
        optimizer.step()
        optimizer.clamp()
        reduced = None if tally is None else reduce_tally([tally], self.world)
        self.networks.adversaries()[objective].after_critic_step(reduced, index)
        return {f"grad_norm/{name}": norm for name, norm in clipped.norms.items()}

    def zero_grad(self, objective: str) -> None:
        """Drops a critic's gradients."""
        self.optimizers[objective].zero_grad()
