"""The file of a grid: its tables, and reading them with every problem at its line. Imports no torch."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, ValidationError, model_validator

from vtp_core.config import Table
from vtp_core.errors import UsageError
from vtp_core.plugins import Plugins
from vtp_core.recipe.problems import Origin, Problem, RecipeErrors, did_you_mean
from vtp_core.recipe.reading.files import Tree
from vtp_core.recipe.reading.messages import findings
from vtp_core.recipe.toml_lines import scan
from vtp_core.recipe.toml_values import TomlError, parse_toml, read_plain

Model = Literal["log-linear", "power law"]
"""`metric = a + b log10(x)`, or `metric = A x^b`."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.]*")


def _named(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f'"{name}" is not a valid name; use letters, digits, "_" and "."')
    return name


Name = Annotated[str, AfterValidator(_named)]
Keys = Mapping[str, Any]
"""Recipe keys, dotted or as tables -> values."""


def _levels(axis: object) -> object:
    """Refuses what TOML makes of a dotted key without quotes: tables of lists."""
    if isinstance(axis, dict):
        for name, level in axis.items():
            if not isinstance(level, dict):
                raise ValueError(
                    f"level {name} must be a table of recipe keys; an axis of one key is written in quotes: "
                    '"encoder.depth" = [2, 4]'
                )
    elif not isinstance(axis, list):
        raise ValueError("expected a list of values, or a table of named levels")
    return axis


Axis = Annotated[list[Any] | Mapping[Name, Keys], BeforeValidator(_levels)]
MAX_RUNS = 10_000
"""Most runs of a grid."""


class Family(Table):
    """One recipe that the grid varies."""

    recipe: Annotated[str, Field(min_length=1)]
    """File beside the grid's, or the name of a shipped recipe."""
    title: str | None = None
    """Name in figures; default: that of the table."""
    set: Keys = {}
    """Recipe keys of this family alone."""


class Budgets(Table):
    """Lengths of training."""

    steps: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)]
    """Steps, rising."""
    decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Fraction of a run over which its learning rate falls. With it, the recipe's rate is a constant, the
    longest run is trained in full, and the others branch off its checkpoints where their decay begins. None:
    each length is a run of its own, with the recipe's schedule."""
    end: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Factor on the learning rate at the end of a decay."""

    @model_validator(mode="after")
    def _rise(self) -> Self:
        if list(self.steps) != sorted(set(self.steps)):
            raise ValueError("steps must be ascending")
        if self.decay is not None and self.steps[0] < 2:
            raise ValueError("a run with a decay needs two steps or more")
        return self

    def decay_from(self) -> tuple[int, ...]:
        """The steps at which decays begin, one for each budget; empty without `decay`.

        Checkpoints are made there, so unless they have a large divisor they are moved to multiples of half
        the first one.
        """
        if self.decay is None:
            return ()
        starts = [steps - min(max(round(steps * self.decay), 1), steps - 1) for steps in self.steps]
        unit = math.gcd(*starts)
        if 4 * unit < starts[0]:
            unit = max(starts[0] // 2, 1)
        return tuple(start - start % unit for start in starts)


class Figure(Table):
    """What is drawn and fitted."""

    metrics: tuple[str, ...] = ()
    """Metrics of ``eval.json``; default: all."""
    x: str = "flops"
    """Horizontal axis: `flops` (forward FLOPs of the training), `parameters` (of the tokenizer), `samples`
    (that were seen), or an axis whose levels are numbers."""
    curves: tuple[str, ...] = ()
    """Axes whose levels get a curve of their own; levels of the others are pooled in one curve a family."""
    models: Mapping[str, Model] = {}
    """Metric -> what is fitted; default: `power law` where less is better and all values are positive."""
    between: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] | None = None
    """The two places of the horizontal axis between which gains are given; default: the ends of the range
    that all curves share."""

    @model_validator(mode="after")
    def _between_rises(self) -> Self:
        if self.between is not None and self.between[0] >= self.between[1]:
            raise ValueError(f"between: the first must be below the second, got {list(self.between)}")
        return self


class Grid(Table):
    """A grid: every family at every level of every axis, at every budget, with every seed."""

    name: Name
    """Names it; default: the file's name."""
    out: Annotated[str, Field(min_length=1)] = "runs/<name>"
    """Folder of the runs' folders; `<name>` stands for the grid's name."""
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**63)], ...], Field(min_length=1)] = (0,)
    """Seeds of training."""
    set: Keys = {}
    """Recipe keys of all runs."""
    families: Annotated[Mapping[Name, Family], Field(min_length=1)]
    """What is compared."""
    axes: Mapping[str, Axis] = {}
    """What is varied: a quoted recipe key -> its values, or a name -> named levels of several keys."""
    budgets: Budgets | None = None
    """Lengths of training; default: that of each recipe."""
    figure: Figure = Figure()
    """What is drawn and fitted."""


def read_grid(path: Path, plugins: Plugins) -> tuple[Grid, Tree]:
    """Reads and checks a grid; its recipes are not looked at.

    Args:
        path: The file.
        plugins: For near names in messages.

    Returns:
        The grid, and its values with the lines where they stand.

    Raises:
        RecipeErrors: All problems, each with its line and key.
        UsageError: The file can't be read.
    """
    try:
        text = read_plain(path)
        values = parse_toml(text)
    except OSError as error:
        raise UsageError(f"{path}: can't be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except TomlError as error:
        raise RecipeErrors([Problem(Origin(str(path), error.line or 1), "", str(error))]) from None
    tree = Tree(str(path), values, {key: Origin(str(path), *at) for key, at in scan(text).items()})
    values.setdefault("name", re.sub(r"[^A-Za-z0-9_.]+", "_", path.stem).strip("_.") or "grid")
    adapter = TypeAdapter(Grid)
    try:
        # From JSON, strict mode still turns arrays into tuples.
        grid = adapter.validate_json(json.dumps(values, default=str), strict=True)
    except ValidationError as error:
        for finding in findings(error, Grid, values, plugins):
            tree.report(finding.path, finding.message)
        raise RecipeErrors(tree.problems) from None
    _check(grid, tree)
    if tree.problems:
        raise RecipeErrors(tree.problems)
    return grid, tree


def numeric_levels(axis: list[Any] | Mapping[str, Keys]) -> bool:
    """Whether the levels of an axis are numbers, or have names that are."""
    levels = axis if isinstance(axis, list) else list(axis)
    try:
        return all(not isinstance(level, bool) and float(level) > 0 for level in levels)
    except (TypeError, ValueError):
        return False


def _check(grid: Grid, tree: Tree) -> None:
    """Checks across tables."""
    for name, axis in grid.axes.items():
        if not axis:
            tree.report(("axes", name), "has no levels")
        if isinstance(axis, list) and any(axis.count(value) > 1 for value in axis):
            tree.report(("axes", name), "has a value twice")
    for index, name in enumerate(grid.figure.curves):
        if name not in grid.axes:
            tree.report(
                ("figure", "curves", index), f'there is no axis "{name}"; {did_you_mean(name, grid.axes)}'
            )
    numbers = [name for name, axis in grid.axes.items() if numeric_levels(axis)]
    known = ["flops", "parameters", "samples", *numbers]
    if grid.figure.x not in known:
        tree.report(
            ("figure", "x"), f'"{grid.figure.x}" is no horizontal axis; {did_you_mean(grid.figure.x, known)}'
        )
    for name in grid.figure.models:
        if grid.figure.metrics and name not in grid.figure.metrics:
            tree.report(
                ("figure", "models", name),
                f"is not among figure.metrics; {did_you_mean(name, grid.figure.metrics)}",
            )
    count = len(grid.families) * len(grid.seeds) * (1 if grid.budgets is None else len(grid.budgets.steps))
    for axis in grid.axes.values():
        count *= len(axis)
    if count > MAX_RUNS:
        tree.report((), f"{count} runs, and at most {MAX_RUNS} are allowed")
