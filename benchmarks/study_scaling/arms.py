"""The arms: every run of the grids, with its seeds. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.study.arm import Arm
from vtp_core.plugins import Plugins, load_plugins
from vtp_core.recipe.toml_values import parse_toml
from vtp_plugins.scale.config import Budgets, Grid, read_grid
from vtp_plugins.scale.runs import Run as GridRun
from vtp_plugins.scale.runs import expand

GRIDS = Path(__file__).parent / "grids"
NAMES = ("main", "data", "decoder")
FAMILIES: Mapping[str, str] = {"ae": "AE", "all": "CLIP + SSL + AE"}
"""Family -> its title."""
TINY_STEPS = (4, 8)

_TINY_SET: Mapping[str, Any] = {
    "optimizer.lr": 1e-3,
    "run.precision": "float32",
    "run.log_every": 1,
    "encoder": {"depth": 1, "heads": 2, "patch": 8, "width": 24},
    "decoder": {"depth": 1, "heads": 2, "width": 24},
    "views.image.rows": 8,
    "objectives.perceptual": {"weights": "random", "rows": 4},
    "objectives.l1.rows": 4,
    "evaluate.limit": 40,
}
_TINY_ALL: Mapping[str, Any] = {
    "views.ssl.rows": 4,
    "objectives.clip": {"width": 16, "depth": 1, "heads": 2, "merges": 100},
    "objectives.dino": {"prototypes": 16, "head_hidden": 16, "head_width": 8, "start": 1},
    "objectives.mim": {"start": 1},
    "objectives.koleo.start": 1,
}
_TINY_AXES: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "size": {"s": {"encoder.width": 16, "decoder.width": 16}, "b": {"encoder.width": 24}},
    "images": {"500": {"data.source.part": [0.0, 0.05]}, "5000": {"data.source.part": [0.0, 0.5]}},
    "decoder": {"12": {"decoder.depth": 2}},
}


def make_arms(tiny: bool = False) -> list[Arm]:
    """All arms, one a family, setting and budget.

    Args:
        tiny: Networks of one block and eight steps on few samples: they show that everything works.
    """
    return list(_arms(tiny))


@cache
def _arms(tiny: bool) -> tuple[Arm, ...]:
    """Reading the grids' recipes takes a second."""
    plugins, found = load_plugins(), []
    for name in NAMES:
        grid, tree = _grid(name, plugins, tiny=tiny)
        chains = expand(grid.model_copy(update={"seeds": grid.seeds[:1]}), tree, plugins)
        for run in (run for chain in chains for run in chain):
            about = ", ".join(
                [
                    FAMILIES[run.family],
                    *(f"{axis} {level}" for axis, level in run.levels.items()),
                    f"{run.steps} steps",
                ]
            )
            overrides = tuple(text for text in run.overrides if not text.startswith("run.seed="))
            found.append(
                Arm(name=arm_name(run), about=about, recipe=run.recipe, overrides=overrides, seeds=grid.seeds)
            )
    return tuple(found)


def arm_name(run: GridRun) -> str:
    """The arm that a run of a grid belongs to."""
    return run.name.removesuffix(f"-seed{run.seed}").replace("-", "_")


def chains_of(data: Iterable[str], *, tiny: bool) -> list[list[GridRun]]:
    """The runs of all grids.

    Args:
        data: Overrides that say where the data is, as `Study.data` gives them.
        tiny: As of `make_arms`.
    """
    plugins, found = load_plugins(), []
    keys: dict[str, Any] = {}
    for override in data:
        key, _, value = override.partition("=")
        keys[key] = parse_toml(f"value = {value}")["value"]
    for name in NAMES:
        grid, tree = _grid(name, plugins, tiny=tiny)
        found += expand(grid.model_copy(update={"set": {**keys, **grid.set}}), tree, plugins)
    # The first seed of all grids comes first.
    return sorted(found, key=lambda chain: chain[0].seed)


def _grid(name: str, plugins: Plugins, *, tiny: bool) -> tuple[Grid, Any]:
    grid, tree = read_grid(GRIDS / f"{name}.toml", plugins)
    if not tiny:
        return grid, tree
    assert grid.budgets is not None
    everything = grid.families["all"]
    changed = {
        "set": {**grid.set, **_TINY_SET},
        "families": {**grid.families, "all": everything.model_copy(update={"set": _TINY_ALL})},
        "axes": {axis: _TINY_AXES[axis] for axis in grid.axes},
        "budgets": Budgets(steps=TINY_STEPS[: min(len(grid.budgets.steps), 2)], decay=grid.budgets.decay),
    }
    return grid.model_copy(update=changed), tree
