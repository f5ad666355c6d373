"""The plan of a recipe: `make_plan` puts together what the other modules find."""

from __future__ import annotations

import gc
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from vtp_core.training.groups import Group, group_needs
from vtp_core.view import Size, sides
from vtp_plugins.plan.cautions import find_cautions
from vtp_plugins.plan.drawn import reads_latents
from vtp_plugins.plan.fits import Fit, chunk_sizes, measure_fits
from vtp_plugins.plan.memory import Memory, estimate, group_activations
from vtp_plugins.plan.multiply_adds import count_layers, scale_layers
from vtp_plugins.plan.probe import Probe
from vtp_plugins.plan.scale import ROWS, Costs
from vtp_plugins.plan.shrink import TORCH_ATTENTION, depths, plannable, shallow
from vtp_plugins.plan.sizes import Sizes, measure_sizes, show
from vtp_plugins.plan.work import Work, collect

if TYPE_CHECKING:
    from vtp_core.plugins import Plugins
    from vtp_core.recipe.tables.recipe import Recipe
    from vtp_core.view import ViewNeed


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a recipe would run and take.

    Attributes:
        name: The recipe's.
        world_size: Ranks.
        attention: Implementation of attention that was measured.
        view_rows: View -> global rows a step that are loaded.
        objective_rows: Objective -> view -> rows per rank.
        groups: Objectives that run together.
        works: Every forward, and every objective's own computation.
        sizes: Parameters, rules, EMA copies and frozen networks.
        flops: Of one training step over all ranks: forward, backward and what runs again, attention included.
        flops_forward_training: Linear and convolution layers of all forwards of the run, without frozen
            helpers and critics: the horizontal axis of the VTP paper's scaling figures.
        flops_table1: 2 x multiply-adds of linear and convolution layers, one image's encode and decode.
        table1_view: The view whose size that image has, or "" if there is no image to decode.
        memory: Estimate per rank.
        fits: Memory and FLOPs with other row chunks, largest first.
        warnings: One line each.
        notes: How the numbers were found, where not as always.
    """

    name: str
    world_size: int
    attention: str
    view_rows: Mapping[str, int]
    objective_rows: Mapping[str, Mapping[str, int]]
    groups: list[Group]
    works: list[Work]
    sizes: Sizes
    flops: int
    flops_forward_training: float
    flops_table1: int | None
    table1_view: str
    memory: Memory
    fits: list[Fit]
    warnings: list[str]
    notes: list[str]

    def data(self) -> dict[str, Any]:
        """The plan as JSON data."""
        return {
            "name": self.name,
            "world_size": self.world_size,
            "groups": [
                {
                    "objectives": list(group.objectives),
                    "views": list(group.views),
                    "activation_bytes": group_activations([w for w in self.works if w.group == index]),
                }
                for index, group in enumerate(self.groups)
            ],
            "forwards": [
                {
                    "group": work.group,
                    "role": work.role,
                    "verb": work.verb,
                    "view": work.view,
                    "module": work.module,
                    "masked": work.masked,
                    "crops": {name: {"count": n, "size": size} for name, (n, size) in work.crops.items()},
                    "rows_per_rank": work.rows,
                    "chunks": work.chunks,
                    "run_by": work.objectives[0],
                    "shared_with": list(work.objectives[1:]),
                    "flops": round(work.flops * self.world_size),
                }
                for work in self.works
            ],
            "rows": {
                "views": {
                    view: {"global": rows, "per_rank": rows // self.world_size}
                    for view, rows in self.view_rows.items()
                },
                "objectives": {name: dict(rows) for name, rows in self.objective_rows.items()},
            },
            "owners": [asdict(owner) for owner in self.sizes.owners],
            "rules": [{**asdict(rule), "lr": show(rule.lr)} for rule in self.sizes.rules],
            "ema": [asdict(teacher) for teacher in self.sizes.teachers],
            "frozen": [{**asdict(network), "weights": "not read"} for network in self.sizes.frozen],
            "parameters": sum(owner.parameters for owner in self.sizes.owners),
            "flops": self.flops,
            "flops_forward_training": self.flops_forward_training,
            "flops_table1": self.flops_table1,
            "flops_table1_view": self.table1_view,
            "memory": {**asdict(self.memory), "total": self.memory.total},
            "fits": [asdict(fit) for fit in self.fits],
            "attention": self.attention,
            "warnings": self.warnings,
            "notes": self.notes,
        }


def make_plan(recipe: Recipe, plugins: Plugins, world_size: int | None = None) -> Plan:
    """Measures a recipe. Opens no data, no weights and no `init_from`.

    Args:
        recipe: A checked recipe.
        plugins: Where its components come from.
        world_size: Ranks; None: the recipe's ``parallel.world_size``, or 1.

    Raises:
        UsageError: A component can't be built, or an objective can't run.
    """
    ranks = world_size or recipe.parallel.world_size or 1
    attention = _attention(recipe, ranks)
    whole = plannable(recipe, attention)
    deep = depths(whole)
    sizes = measure_sizes(whole, plugins)

    probe = Probe(shallow(whole), plugins, sizes.dims.depth)
    base = {rows: probe.step(rows) for rows in ROWS}
    idle, unused = probe.idle(), probe.unused()
    view, size = _reconstructed(recipe, probe, base[ROWS[0]].asks)
    layers = count_layers(probe, size) if view else 0
    groups, needs = probe.groups, probe.needs
    del probe
    deeper, deeper_layers = {}, {}
    for name in (name for name, depth in deep.items() if depth > 1):
        gc.collect()  # modules are cyclic: only this frees one set of networks before the next is built
        probe = Probe(shallow(whole, deeper=name), plugins, sizes.dims.depth)
        deeper[name] = {rows: probe.step(rows) for rows in (ROWS[0], ROWS[-1])}
        deeper_layers[name] = count_layers(probe, size) if view else 0
        del probe

    costs, asked = Costs(base, deeper, deep), group_needs(needs, needs)
    pixels, shard = _pixels(recipe, asked, ranks), recipe.parallel.shard if ranks > 1 else 1

    def in_chunks(rows: int | None) -> tuple[list[Work], Memory]:
        run = recipe.run.model_copy(update={"microbatch_rows": rows})
        changed = recipe.model_copy(update={"run": run})
        found = collect(changed, costs, base[ROWS[0]], groups, needs, ranks)
        return found, estimate(found, sizes, pixels=pixels, shard=shard)

    def totals(rows: int | None) -> tuple[int, int]:
        found, held = in_chunks(rows)
        return held.total, _flops(found, ranks)

    works, memory = in_chunks(recipe.run.microbatch_rows)
    most = max(_rows(recipe, view, need) // ranks for view, need in asked.items())
    return Plan(
        name=recipe.name,
        world_size=ranks,
        attention=attention,
        view_rows={name: _rows(recipe, name, need) for name, need in asked.items()},
        objective_rows={
            name: {v: _rows(recipe, v, need) // ranks for v, need in views.items()}
            for name, views in needs.items()
        },
        groups=groups,
        works=works,
        sizes=sizes,
        flops=_flops(works, ranks),
        flops_forward_training=sum(work.cost.layers for work in works) * ranks * recipe.run.steps,
        flops_table1=scale_layers(layers, deeper_layers, deep) if view else None,
        table1_view=view,
        memory=memory,
        fits=measure_fits(chunk_sizes(most), totals),
        warnings=find_cautions(recipe, sizes, idle, unused),
        notes=_notes(recipe, sizes),
    )


def _attention(recipe: Recipe, ranks: int) -> str:
    """The recipe's attention where it is of the core; for a plugin's, and on devices, SDPA stands in."""
    on_cpu = recipe.run.device == "cpu" or (
        recipe.run.device == "auto" and ranks == 1 and not torch.cuda.is_available()
    )
    name = recipe.kernels.attention
    return name if name in TORCH_ATTENTION and (on_cpu or name != "auto") else "sdpa"


def _reconstructed(
    recipe: Recipe, probe: Probe, asks: Mapping[tuple[object, ...], object]
) -> tuple[str, Size]:
    """The first view that is reconstructed, or that is read as images, and its size; ("", 0) if none is."""
    views = [str(key[2]) for key in asks if key[1] == "reconstruct"] + list(recipe.views)
    needs = group_needs(probe.needs, probe.needs)
    for view in views:
        if view in needs and not reads_latents(recipe, view, needs[view]):
            return view, recipe.views[view].crop_size("global")
    return "", 0


def _flops(works: list[Work], ranks: int) -> int:
    return round(sum(work.flops for work in works) * ranks)


def _rows(recipe: Recipe, view: str, need: ViewNeed) -> int:
    rows = recipe.views[view].rows
    return rows if need.rows is None else min(rows, need.rows)


def _pixels(recipe: Recipe, needs: Mapping[str, ViewNeed], ranks: int) -> int:
    return sum(
        _rows(recipe, view, need) // ranks * recipe.views[view].crops[crop].count
        * 3 * math.prod(sides(recipe.views[view].crop_size(crop)))
        for view, need in needs.items()
        if not reads_latents(recipe, view, need)
        for crop in need.crops
    )  # fmt: skip


def _notes(recipe: Recipe, sizes: Sizes) -> list[str]:
    notes = [sizes.note] if sizes.note else []
    for name, table in recipe.objectives.items():
        if table.start > 0 or table.stop is not None:
            until = "the end" if table.stop is None else f"step {table.stop}"
            notes.append(f"{name} is counted as active, which it is from step {table.start} to {until}")
    if sizes.frozen:
        notes.append("frozen networks were built uninitialised; their weights were not looked for")
    return notes
