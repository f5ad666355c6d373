"""The runs of a grid: names, recipes with overrides, and who branches off whom. Imports no torch."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from vtp_core.recipe import load_recipe
from vtp_core.recipe.flat import flatten
from vtp_core.recipe.problems import Origin, Problem, RecipeErrors
from vtp_core.recipe.reading.files import Tree, read_tree
from vtp_core.recipe.shipped import find_recipe
from vtp_core.recipe.writing.dump import literal
from vtp_core.run.setup.recipe_change import FREE_KEYS
from vtp_core.schedule import Constant
from vtp_plugins.scale.config import Grid, Keys

if TYPE_CHECKING:
    from vtp_core.plugins import Plugins
    from vtp_core.recipe import Recipe


SCHEDULES = ("constant", "linear", "cosine", "step", "wsd")
"""Kinds of schedules."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training run of a grid.

    Attributes:
        name: Of its folder.
        family: Its family.
        levels: Axis -> level.
        seed: Its seed.
        recipe: The recipe's file.
        overrides: Values over the recipe's that belong to the experiment.
        settings: Values that don't: checkpoints for branches, the command line's.
        loaded: The recipe as `vtp run` will read it, but for its folder.
        parent: Name of the run that it branches off; None: it starts by itself.
        start: The parent's step where it does.
        keeps: Steps at which others branch off it.
        digest: Sixteen hex digits that change with any value that is set and changes the training.
    """

    name: str
    family: str
    levels: Mapping[str, str]
    seed: int
    recipe: Path
    overrides: tuple[str, ...]
    settings: tuple[str, ...]
    loaded: Recipe = field(repr=False)
    parent: str | None = None
    start: int = 0
    keeps: tuple[int, ...] = ()
    digest: str = ""

    @property
    def steps(self) -> int:
        """Steps of training, those of the parent included."""
        return self.loaded.run.steps


def expand(grid: Grid, tree: Tree, plugins: Plugins, overrides: Sequence[str] = ()) -> list[list[Run]]:
    """The runs of a grid in chains: one that starts by itself, then those that branch off it.

    All chains of the first seed come first, so that a grid that is cut short has seen every setting once.

    Args:
        grid: The grid.
        tree: Where its keys stand.
        plugins: Installed plugins.
        overrides: Of the command line, for all runs.

    Raises:
        RecipeErrors: A recipe is wrong in a setting, or can't be cut into branches.
    """
    folder = Path(tree.file).parent
    chains = []
    for seed, (name, family) in itertools.product(grid.seeds, grid.families.items()):
        beside = folder / family.recipe
        recipe = beside if beside.is_file() else find_recipe(family.recipe)
        for levels in itertools.product(*(_levels(axis, table) for axis, table in grid.axes.items())):
            keys = [grid.set, family.set, *(level.keys for level in levels)]
            setting = _Setting(
                grid=grid,
                tree=tree,
                plugins=plugins,
                family=name,
                levels={axis: level.name for axis, level in zip(grid.axes, levels, strict=True)},
                parts=(name, *(level.label for level in levels)),
                seed=seed,
                recipe=recipe,
                keys=(*_overrides(keys), f"run.seed={seed}"),
                settings=tuple(overrides),
            )
            chains.append(setting.chain())
    names = [run.name for chain in chains for run in chain]
    if twice := {name for name in names if names.count(name) > 1}:
        problem = f"two runs would have the name {sorted(twice)[0]}; name the levels of this axis"
        raise RecipeErrors([Problem(tree.origin(("axes",)), "axes", problem)])
    return chains


@dataclass(frozen=True)
class _Level:
    """A level of an axis: its name, the part of a run's name that it gives, the keys that it sets."""

    name: str
    label: str
    keys: Keys


def _levels(axis: str, table: list[Any] | Mapping[str, Keys]) -> list[_Level]:
    if not isinstance(table, list):
        numbered = all(name[0].isdigit() for name in table)  # a bare number says nothing in a name
        return [_Level(name, f"{axis}{name}" if numbered else name, keys) for name, keys in table.items()]
    found, short = [], axis.rpartition(".")[2]
    for index, value in enumerate(table):
        plain = isinstance(value, str | int | float)
        text = str(value).replace("/", "_").replace(" ", "_") if plain else f"_{index}"
        found.append(_Level(str(value), f"{short}{text}", {axis: value}))
    return found


def _overrides(tables: Sequence[Keys]) -> Iterator[str]:
    for table in tables:
        for key, value in table.items():
            for schedule in _schedules(key, value):
                yield f"{schedule}=0"  # an override of a table leaves the keys of another schedule there
            yield f"{key}={literal(value)}"


def _schedules(key: str, value: Any) -> Iterator[str]:
    """Keys of the schedule tables in a value."""
    if isinstance(value, Mapping):
        if "use" not in value and value.get("kind") in SCHEDULES:
            yield key
        for name, inner in value.items():
            yield from _schedules(f"{key}.{name}", inner)


@dataclass(frozen=True, kw_only=True)
class _Setting:
    """A family at a level of every axis with a seed, and the chain of its budgets."""

    grid: Grid
    tree: Tree
    plugins: Plugins
    family: str
    levels: Mapping[str, str]
    parts: tuple[str, ...]
    seed: int
    recipe: Path
    keys: tuple[str, ...]
    settings: tuple[str, ...]

    def chain(self) -> list[Run]:
        """The runs; the longest first if others branch off it."""
        budgets = self.grid.budgets
        if budgets is None:
            return [self._run((), ())]
        starts = budgets.decay_from()
        if not starts:
            return [self._run((f"run.steps={steps}",), (f"steps{steps}",)) for steps in budgets.steps]
        rate = self._rate(starts[0])
        made: list[Run] = []
        for steps, start in sorted(zip(budgets.steps, starts, strict=True), reverse=True):
            decayed = {
                "kind": "wsd",
                **{key: rate[key] for key in ("value", "warmup", "warmup_from")},
                "decay": steps - start,
                "end": rate["value"] * budgets.end,
            }
            change = (f"run.steps={steps}", *_overrides([{"optimizer.lr": decayed}]))
            if made:
                made.append(self._run(change, (f"steps{steps}",), parent=made[0].name, start=start))
            else:
                made.append(self._run(change, (f"steps{steps}",), keeps=tuple(sorted(starts)[:-1])))
        return made

    def _rate(self, first: int) -> Mapping[str, float]:
        """The recipe's constant learning rate with its warm-up."""
        recipe = self._load(self.keys)
        given = recipe.optimizer.lr
        if isinstance(given, int | float):
            given = Constant(value=given)
        if not isinstance(given, Constant):
            self._refuse(
                f'budgets.decay needs a constant optimizer.lr, that of {self.recipe} is "{given.kind}"'
            )
        if given.warmup > first:
            self._refuse(
                f"the warm-up of {self.recipe} takes {given.warmup} steps, and a decay begins at {first}"
            )
        if depends := list(_on_length(recipe.model_dump(mode="json", by_alias=True))):
            self._refuse(
                f"{depends[0]} of {self.recipe} depends on the run's length, so shorter runs can't be "
                "branches of a longer one; make it a number, or give it steps"
            )
        return {"value": given.value, "warmup": given.warmup, "warmup_from": given.warmup_from}

    def _run(
        self,
        change: tuple[str, ...],
        parts: tuple[str, ...],
        *,
        parent: str | None = None,
        start: int = 0,
        keeps: tuple[int, ...] = (),
    ) -> Run:
        overrides = (*self.keys, *change)
        settings = self.settings
        if keeps:
            every = math.gcd(*keeps)
            settings = (*settings, f"run.checkpoint_every={every}", "run.keep_checkpoints=1000000")
        return Run(
            name="-".join((*self.parts, *parts, f"seed{self.seed}")),
            family=self.family,
            levels=self.levels,
            seed=self.seed,
            recipe=self.recipe,
            overrides=overrides,
            settings=settings,
            loaded=self._load((*overrides, *settings)),
            parent=parent,
            start=start,
            keeps=keeps,
            digest=_digest(self.recipe, (*overrides, *settings)),
        )

    def _load(self, overrides: Sequence[str]) -> Recipe:
        """The recipe; a problem of a value that the grid sets is reported at the grid's line."""
        try:
            return load_recipe(self.recipe, overrides, self.plugins)
        except RecipeErrors as error:
            setting = " ".join(self.parts)
            problems = [
                Problem(
                    self._origin(problem.key) if not problem.place.line else problem.place,
                    problem.key,
                    f"{problem.message} (of {setting})",
                )
                for problem in error.problems
            ]
            raise RecipeErrors(problems) from None

    def _origin(self, key: str) -> Origin:
        """Where the grid sets a recipe key, or a table around it; else its own place."""
        places = [("set",), ("families", self.family, "set")]
        places += [("axes", axis, level) for axis, level in self.levels.items()]
        for path, origin in reversed(list(self.tree.origins.items())):
            for base in places:
                if path[: len(base)] == base and len(path) > len(base):
                    set_key = ".".join(str(part) for part in path[len(base) :])
                    if key == set_key or key.startswith((f"{set_key}.", f"{set_key}[")):
                        return origin
        for axis in self.levels:
            if key == axis:
                return self.tree.origin(("axes", axis))
        return self.tree.origin(("families", self.family))

    def _refuse(self, message: str) -> NoReturn:
        path = ("families", self.family, "recipe")
        raise RecipeErrors([Problem(self.tree.origin(path), ".".join(path), message)])


def _on_length(values: Mapping[str, Any]) -> Iterator[str]:
    """Keys, but the learning rate, whose schedule is stretched over the run."""
    for key, kind in flatten(values).items():
        path, _, last = key.rpartition(".")
        if last != "kind" or path == "optimizer.lr":
            continue
        table: Any = values
        for part in path.split("."):
            table = table[part]
        if kind == "wsd" or (kind in ("linear", "cosine") and table.get("steps") is None):
            yield path


def _digest(recipe: Path, overrides: Sequence[str]) -> str:
    """Defaults don't count, so that a new key of the framework leaves old results valid."""
    values = {
        key: value
        for key, value in flatten(read_tree(recipe, overrides).values).items()
        if not any(fnmatchcase(key, pattern) for pattern in FREE_KEYS)
    }
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:16]
