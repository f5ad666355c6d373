"""Arms of a study, and the single runs that they stand for. Imports no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vtp_core.recipe.reading.files import read_tree


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One setting of a study.

    Attributes:
        name: Its name: letters, digits, `_` and `.`.
        about: What sets it apart, for tables.
        recipe: The recipe that is trained.
        overrides: Values over the recipe's, as those of ``vtp run -s``.
        seeds: One run each.
        first: Recipe of a stage before it, whose weights become `init_from.path`; None: it starts afresh.
        first_overrides: Values over that recipe's.
    """

    name: str
    about: str
    recipe: Path
    overrides: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    first: Path | None = None
    first_overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """One training run: an arm with a seed."""

    arm: Arm
    seed: int

    @property
    def name(self) -> str:
        """Name of its folder and of its result."""
        return f"{self.arm.name}_seed{self.seed}"

    @property
    def overrides(self) -> tuple[str, ...]:
        """All values over the recipe's that belong to the experiment: not its data, folder or threads."""
        return (*self.arm.overrides, f"run.seed={self.seed}")

    @property
    def first_overrides(self) -> tuple[str, ...]:
        """The same of the stage before it."""
        return (*self.arm.first_overrides, f"run.seed={self.seed}")

    def digest(self) -> str:
        """Sixteen hex digits that change with any value that recipe and overrides set.

        Defaults don't count, so that a new key of the framework leaves old results valid.
        """
        values: object = read_tree(self.arm.recipe, self.overrides).values
        if self.arm.first is not None:
            values = [read_tree(self.arm.first, self.first_overrides).values, values]
        return _digest(values)

    def first_digest(self) -> str:
        """The same of the stage before it alone."""
        assert self.arm.first is not None
        return _digest(read_tree(self.arm.first, self.first_overrides).values)


def _digest(values: object) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def runs_of(arms: Sequence[Arm]) -> list[Run]:
    """All runs: the first seed of every arm, then the second of those that have one, and so on.

    A study that is cut short has then seen every arm once.
    """
    depth = max((len(arm.seeds) for arm in arms), default=0)
    return [Run(arm, arm.seeds[turn]) for turn in range(depth) for arm in arms if turn < len(arm.seeds)]
