"""The joint training step: all objectives, each on its own rows, in one optimiser step.

Groups of objectives run one after another and their gradients add up. In a group each objective's loss is
differentiated down to the cut points; then the networks run backward once for all of them. In order:

1. `before_step`; critics are frozen; for each group: its objectives (adversarial last), its cuts backward;
2. clipping, optimiser, clamps, `after_step` with the reduced tallies, EMA copies;
3. critics thaw, their losses, their optimisers.

A non-finite term or gradient skips the step: nothing is updated.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from vtp_core.batch import Batch
from vtp_core.features import Losses, Reconstruction, Tally
from vtp_core.objective import AdversarialObjective
from vtp_core.schedule import value_at
from vtp_core.training.forward.forwards import Forwards
from vtp_core.training.forward.gradient_norms import GradientNorms
from vtp_core.training.forward.options import ForwardOptions
from vtp_core.training.forward.step import EngineStep
from vtp_core.training.groups import Group, build_groups, group_needs
from vtp_core.training.networks import Networks
from vtp_core.training.optim.critics import Critics
from vtp_core.training.optim.guard import Guard
from vtp_core.training.optim.skip import SkipStep
from vtp_core.training.optim.update import Update
from vtp_core.training.ranks.tallies import reduce_tallies
from vtp_core.training.ranks.world import World


@dataclass(kw_only=True)
class StepResult:
    """Result of a joint step, the same on every rank.

    Attributes:
        terms: ``objective/term`` -> global unweighted loss.
        weighted: Objective -> weight times the sum of its terms.
        report: ``objective/name`` -> logged scalar.
        gradients: Gradient norms and clip factors.
        skipped: Why nothing was updated, or None.
    """

    terms: dict[str, float] = field(default_factory=dict)
    weighted: dict[str, float] = field(default_factory=dict)
    report: dict[str, float] = field(default_factory=dict)
    gradients: dict[str, float] = field(default_factory=dict)
    skipped: str | None = None


class JointStep:
    """Runs joint steps; the groups of objectives are fixed at construction.

    Args:
        networks: The run's modules.
        world: This rank.
        options: Seed, chunks and precision of the forwards.
        update: Main optimiser, clipping and EMA; None to accumulate gradients only.
        critics: The critics' optimisers; None if no objective has a critic.
        guard: Refuses non-finite terms.
    """

    def __init__(
        self,
        networks: Networks,
        world: World,
        options: ForwardOptions,
        update: Update | None = None,
        critics: Critics | None = None,
        guard: Guard | None = None,
    ) -> None:
        self.networks, self.world, self.options = networks, world, options
        self.update, self.critics = update, critics
        self.guard = guard or Guard(max_skipped=0)
        self.needs = {name: objective.views() for name, objective in networks.objectives.items()}
        self._sample_rows = {"bottleneck": networks.bottleneck.sample_rows}
        self.groups: list[Group] = build_groups(self.needs, last=networks.adversaries())

    def __call__(self, batches: Mapping[str, Batch], index: int, *, measure: bool = False) -> StepResult:
        """Runs step `index` on this rank's rows of every view; `measure` adds gradient norms at the cuts."""
        result, tallies, kept = StepResult(), dict[str, list[Tally]](), dict[str, Reconstruction]()
        if self.update is not None:
            self.guard.announce(self.networks.bottleneck, index)
        batches = {view: batch.to(self.world.device) for view, batch in batches.items()}
        try:
            with _frozen_critics(self.networks.adversaries().values()):
                for group in self.groups:
                    self._run_group(group, batches, index, result, tallies, kept, measure=measure)
            if self.update is not None:
                active = [name for name in self.networks.objectives if self._active(name, index)]
                reduced = reduce_tallies(tallies, self.world, self._sample_rows)
                result.gradients |= self.update(index, reduced, active)
        except SkipStep as reason:
            result.skipped = str(reason)
        if self.update is not None:
            self.update.zero_grad()
        if self.critics is not None and result.skipped is None:
            self._run_critics(batches, index, result, kept)
        return result

    def _run_group(
        self,
        group: Group,
        batches: Mapping[str, Batch],
        index: int,
        result: StepResult,
        tallies: dict[str, list[Tally]],
        kept: dict[str, Reconstruction],
        *,
        measure: bool,
    ) -> None:
        active = [name for name in group.objectives if self._active(name, index)]
        if not active:
            return
        needs = group_needs(self.needs, active)
        forwards = Forwards(self.networks, self.world, batches, needs, self.options, index)
        norms = GradientNorms(forwards, self.world) if measure else None
        try:
            for name in active:
                objective = self.networks.objectives[name]
                with self.options.precision(self.world.device):
                    losses: Losses = objective(EngineStep(forwards, name, self.needs[name]))
                weight = value_at(objective.config.weight, index, self.options.total)
                self._record(name, losses, weight, result)
                if losses.tally is not None:
                    tallies.setdefault(name, []).append(losses.tally)
                forwards.backward_loss(losses.total() * weight)
                if norms is not None:
                    norms.after(name)
            self._record("bottleneck", Losses(terms=forwards.aux(), report=forwards.report()), 1.0, result)
            forwards.backward()
            tallies.setdefault("bottleneck", []).extend(forwards.tallies())
            if self.critics is not None:
                kept |= forwards.reconstructions()
            if norms is not None:
                result.gradients |= norms.values
        finally:
            forwards.close()

    def _record(self, name: str, losses: Losses, weight: float, result: StepResult) -> None:
        """Reduces an objective's scalars over ranks, records them and refuses non-finite terms."""
        names = [*losses.terms, *losses.report]
        values = [
            value.detach().reshape(()).double() for value in (*losses.terms.values(), *losses.report.values())
        ]
        reduced: Sequence[float] = self.world.average(torch.stack(values)).tolist() if values else ()
        terms = dict(zip(losses.terms, reduced, strict=False))
        for term, value in terms.items():
            result.terms[f"{name}/{term}"] = result.terms.get(f"{name}/{term}", 0.0) + value
        for key, value in zip(names[len(terms) :], reduced[len(terms) :], strict=True):
            result.report[f"{name}/{key}"] = value
        if terms:
            result.weighted[name] = result.weighted.get(name, 0.0) + weight * sum(terms.values())
        if (reason := self.guard.check(name, terms)) is not None:
            raise SkipStep(reason)

    def _run_critics(
        self, batches: Mapping[str, Batch], index: int, result: StepResult, kept: Mapping[str, Reconstruction]
    ) -> None:
        assert self.critics is not None
        for name, objective in self.networks.adversaries().items():
            if not self._active(name, index):
                continue
            needs = group_needs(self.needs, [name])
            forwards = Forwards(self.networks, self.world, batches, needs, self.options, index)
            try:
                with self.options.precision(self.world.device):
                    losses = objective.critic_loss(EngineStep(forwards, name, self.needs[name], kept))
                self._record(f"{name}.critic", losses, 1.0, result)
                forwards.backward_loss(losses.total())
                result.gradients |= self.critics.update(name, index, losses.tally)
            except SkipStep as reason:
                result.skipped = f"{reason} (of this step only that critic's update is left out)"
            finally:
                forwards.close()
            self.critics.zero_grad(name)

    def _active(self, name: str, index: int) -> bool:
        return self.networks.objectives[name].config.active(index)


@contextmanager
def _frozen_critics(adversaries: Iterable[AdversarialObjective]) -> Iterator[None]:
    """Freezes the critics' parameters for the main pass."""
    parameters = [p for adversary in adversaries for p in adversary.critic.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
