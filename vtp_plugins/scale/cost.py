"""What the training of a run takes: forward FLOPs, parameters, samples, by `vtp plan`'s measurement."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from vtp_core.training.networks import PARTS
from vtp_plugins.plan.plan import make_plan

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vtp_core.plugins import Plugins
    from vtp_core.recipe import Recipe
    from vtp_plugins.plan.plan import Plan
    from vtp_plugins.scale.runs import Run


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Cost of a training run, from its first step to its last, a parent's part included.

    Attributes:
        flops: Linear and convolution layers of all forwards, 2 x multiply-adds, without frozen helpers and
            critics: the horizontal axis of the VTP paper's figures. An objective counts while it is active.
        parameters: Of encoder, bottleneck and decoder.
        samples: Samples that were read, repeated ones included.
    """

    flops: float
    parameters: int
    samples: int

    def data(self) -> dict[str, float]:
        """As JSON data."""
        return asdict(self)


class Costs:
    """Costs of runs; a family at given levels is measured once, since a plan takes seconds."""

    def __init__(self, plugins: Plugins) -> None:
        self._plugins = plugins
        self._plans: dict[tuple[object, ...], Plan] = {}

    def of(self, run: Run) -> Cost:
        """The cost of one run."""
        key = (run.family, *run.levels.items())
        if key not in self._plans:
            self._plans[key] = make_plan(run.loaded, self._plugins)
        plan = self._plans[key]
        return Cost(
            flops=forward_flops(plan, run.loaded),
            parameters=sum(owner.parameters for owner in plan.sizes.owners if owner.name in PARTS),
            samples=run.steps * rows_a_step(plan.view_rows, run.loaded),
        )


def forward_flops(plan: Plan, recipe: Recipe) -> float:
    """Forward FLOPs of a run of `recipe`, whose plan may be of another number of steps.

    A forward counts in the steps in which one of the objectives that use it is active.
    """
    total = 0.0
    for work in plan.works:
        tables = [recipe.objectives[name] for name in work.objectives]
        steps = sum(any(table.active(index) for table in tables) for index in range(recipe.run.steps))
        total += work.cost.layers * plan.world_size * steps
    return total


def rows_a_step(view_rows: Mapping[str, int], recipe: Recipe) -> int:
    """Samples of a step: the largest view of each source."""
    largest: dict[str, int] = {}
    for view, rows in view_rows.items():
        source = recipe.views[view].source
        largest[source] = max(largest.get(source, 0), rows)
    return sum(largest.values())
