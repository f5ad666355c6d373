"""The forwards of a step at the recipe's size: objectives that use them, rows, costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vtp_core.training.groups import Group, group_needs
from vtp_core.view import Size
from vtp_plugins.plan.meter import Cost, Meter
from vtp_plugins.plan.scale import Costs

if TYPE_CHECKING:
    from vtp_core.recipe.tables.recipe import Recipe
    from vtp_core.view import ViewNeed


@dataclass(frozen=True, kw_only=True)
class Work:
    """One forward, or what an objective computes itself.

    Attributes:
        group: Index of its group.
        role: ``student`` or ``teacher``; ``""`` for an objective's own computation.
        verb: ``encode``, ``tokenize``, ``reconstruct``, ``call``; else ``loss`` or ``critic``.
        view: Its view; of a call, a loss or a critic "".
        module: The module of a call, such as ``clip.text``.
        masked: Whether masked patches are replaced.
        crops: Crop set -> (crops a row, size in pixels), of an ``encode``.
        rows: Rows per rank.
        objectives: Objectives that use it; the first one triggers it, the others reuse its result.
        cost: Per rank, of all rows at once.
        chunk: The same of one chunk of `run.microbatch_rows`; equals `cost` if there is one chunk.
        chunks: Number of chunks.
    """

    group: int
    role: str
    verb: str
    view: str
    module: str
    masked: bool
    crops: Mapping[str, tuple[int, Size]]
    rows: int
    objectives: tuple[str, ...]
    cost: Cost
    chunk: Cost
    chunks: int

    @property
    def network(self) -> bool:
        """Whether it is a network's forward with a graph of its own, rather than an objective's."""
        return self.verb in ("encode", "tokenize", "reconstruct")

    @property
    def flops(self) -> float:
        """Forward and backward per rank, and the forward again if it goes in chunks."""
        again = self.cost.forward if self.chunks > 1 and self.cost.gradients > 0 else 0.0
        return self.cost.forward + self.cost.backward + again


def collect(
    recipe: Recipe,
    costs: Costs,
    step: Meter,
    groups: list[Group],
    needs: Mapping[str, Mapping[str, ViewNeed]],
    world_size: int,
) -> list[Work]:
    """Everything that a step runs, group by group in the order of its first run.

    Args:
        recipe: The recipe in full.
        costs: The measured costs.
        step: Any of the measured steps, with the objectives that asked for each forward.
        groups: The step's groups.
        needs: Objective -> view -> what it asks.
        world_size: Ranks.
    """
    found = []
    for key in (key for key in costs.keys() if key != ("set-up",)):
        name = str(key[1]) if key[0] in ("objective", "critic") else ""
        askers = (name,) if name else tuple(step.asks.get(key, ()))
        group = next(i for i, group in enumerate(groups) if askers[0] in group.objectives)
        crops: dict[str, tuple[int, Size]] = {}
        if key[1] in ("encode", "tokenize", "reconstruct") and not name:
            view = str(key[2])
            encodes = key[1] == "encode"
            who = groups[group].objectives if encodes else askers
            need = group_needs(needs, [n for n in who if view in needs[n]])[view]
            rows = _rows(recipe, view, need)
            if encodes:
                names = need.crops if key[0] == "student" else ("global",)
                table = recipe.views[view]
                crops = {crop: (table.crops[crop].count, table.crop_size(crop)) for crop in names}
        else:
            view = ""
            rows = max(_rows(recipe, v, need) for v, need in needs[askers[0]].items())
        local, limit = rows // world_size, recipe.run.microbatch_rows
        cuts = not name and limit is not None and local > limit
        chunk = limit if cuts and limit is not None else local
        checkpointed = recipe.parallel.activation_checkpoint == "block" and not name
        found.append(
            Work(
                group=group,
                role="" if name else str(key[0]),
                verb={"objective": "loss", "critic": "critic"}.get(str(key[0]), str(key[1])),
                view=view,
                module=step.modules.get(key, ""),
                masked=bool(view and key[3]),
                crops=crops,
                rows=local,
                objectives=askers,
                cost=costs.at(key, local, rows, checkpointed=checkpointed),
                chunk=costs.at(key, chunk, rows, checkpointed=checkpointed),
                chunks=-(-local // chunk),
            )
        )
    return sorted(found, key=lambda work: work.group)


def _rows(recipe: Recipe, view: str, need: ViewNeed) -> int:
    whole = recipe.views[view].rows
    return whole if need.rows is None else min(need.rows, whole)
