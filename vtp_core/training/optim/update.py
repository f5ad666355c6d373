"""The update after the backward passes: clipping, optimiser, clamps, `after_step`, EMA copies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vtp_core.features import Tally
from vtp_core.training.networks import PARTS, Networks
from vtp_core.training.optim.ema import Ema
from vtp_core.training.optim.guard import Guard
from vtp_core.training.optim.optimizer import MainOptimizer
from vtp_core.training.optim.skip import SkipStep
from vtp_core.training.ranks.parallel import reduce_replicated
from vtp_core.training.ranks.world import World


class Update:
    """Updates parameters, codebooks and EMA copies, or none of them if the step is skipped.

    Args:
        networks: The run's modules.
        world: This rank.
        optimizer: The main optimiser.
        ema: EMA copies, or None.
        guard: Decides whether the step is made.
        total: Steps of the run.
        audited: Whether each owner's parameters must all get a gradient at its first active step.
    """

    def __init__(
        self,
        networks: Networks,
        world: World,
        optimizer: MainOptimizer,
        ema: Ema | None,
        guard: Guard,
        total: int,
        *,
        audited: bool = True,
    ) -> None:
        self.networks, self.world, self.optimizer = networks, world, optimizer
        self.ema, self.total = ema, total
        self.guard, self._audited = guard, audited
        self._trained = {owner.name: len(owner.trained()) for owner in optimizer.owners}

    def __call__(self, index: int, tallies: Mapping[str, Tally], active: Sequence[str]) -> dict[str, float]:
        """Runs the update of step `index`.

        Args:
            index: The step.
            tallies: Owner -> reduced tally.
            active: Objectives that took part.

        Returns:
            ``grad_norm/<owner>``, ``clip/<owner>`` factors and the learning rate.

        Raises:
            SkipStep: A gradient is not finite; nothing was updated.
        """
        self.optimizer.set_schedules(index)
        reduce_replicated(self.networks, self.networks.owners(), self.world)
        if self._audited:
            self._audit(active)
        clipped = self.optimizer.clip()
        if (reason := self.guard.check_gradients(clipped.norms)) is not None:
            raise SkipStep(reason)
        self.optimizer.step()
        self.optimizer.clamp()
        if "bottleneck" in tallies and self.networks.bottleneck.training:  # a frozen part is in eval mode
            self.networks.bottleneck.after_step(tallies["bottleneck"], index)
            self.guard.bottleneck_missed = 0
        for name, objective in self.networks.objectives.items():
            if name in tallies and objective.training:
                objective.after_step(tallies[name], index)
        if self.ema is not None:
            self.ema.update(index, self.total)
        trained = [owner for owner, count in self._trained.items() if count]
        return {f"grad_norm/{owner}": clipped.norms[owner] for owner in trained} | {
            f"clip_factor/{owner}": clipped.factors[owner] for owner in trained
        }

    def zero_grad(self) -> None:
        """Drops all gradients."""
        self.optimizer.zero_grad()

    def _audit(self, active: Sequence[str]) -> None:
        for part in PARTS:  # a part that no active objective uses has no gradient at all
            parameters = self.networks.parameters_of(part)
            if any(parameter.grad is not None for parameter in parameters.values()):
                self.guard.audit(part, parameters)
        for name in active:
            self.guard.audit(name, self.networks.parameters_of(name))
