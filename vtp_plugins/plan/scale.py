"""From costs at a few rows and depths 1 and 2 to costs at the recipe's rows and depths.

Costs are linear in the depth of each component. A network's forward is linear in its rows, with a constant
(casts of weights). An objective's own computation may also hold rows x global rows (a contrast's scores).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from vtp_core.training.forward.observer import Key
from vtp_plugins.plan.meter import Cost, Meter

ROWS = (2, 3, 4)
"""Rows of the steps that are measured; the first and last alone for networks that are one block deeper."""

CHECKPOINTED = ("encoder", "decoder")
"""Components whose blocks `parallel.activation_checkpoint` reaches (`ranks.parallel.wrap`)."""


class _Line(NamedTuple):
    """``constant + linear * rows + square * rows * global rows``."""

    constant: float = 0.0
    linear: float = 0.0
    square: float = 0.0

    def at(self, rows: int, global_rows: int) -> float:
        return self.constant + self.linear * rows + self.square * rows * global_rows


class Costs:
    """Costs of a step's forwards at any number of rows.

    Args:
        base: Rows of `ROWS` -> what a step of them cost with all depths 1.
        deeper: Component -> rows (first and last of `ROWS`) -> the same with its depth 2.
        depths: Component -> the recipe's depth.
    """

    def __init__(
        self,
        base: Mapping[int, Meter],
        deeper: Mapping[str, Mapping[int, Meter]],
        depths: Mapping[str, int],
    ) -> None:
        self._depths = depths
        self._base = {key: _fit(key, base) for key in base[ROWS[0]].costs}
        self._blocks = {
            name: {key: _subtract(_fit(key, steps, straight=True), key, base) for key in self._base}
            for name, steps in deeper.items()
        }

    def keys(self) -> list[Key]:
        """Everything that was measured."""
        return list(self._base)

    def at(self, key: Key, rows: int, global_rows: int, *, checkpointed: bool = False) -> Cost:
        """The cost of one forward.

        Args:
            key: One of `keys`.
            rows: This rank's rows.
            global_rows: The rows of all ranks.
            checkpointed: Whether blocks keep their inputs only, and run again in the backward.
        """
        base = _evaluate(self._base[key], rows, global_rows)
        total = dict(base._asdict())
        for name, blocks in self._blocks.items():
            more = self._depths[name] - 1
            block = _evaluate(blocks[key], rows, global_rows)
            again = checkpointed and name in CHECKPOINTED and block.backward > 0
            for field, amount in block._asdict().items():
                total[field] += more * amount
            if again:
                total["saved"] += (more + 1) * (block.blocks - block.saved)
                total["rerun"] += block.saved - block.blocks
                total["backward"] += (more + 1) * block.forward
        return Cost(**total)


def _fit(key: Key, steps: Mapping[int, Meter], *, straight: bool = False) -> dict[str, _Line]:
    curved = key[0] in ("objective", "critic") and not straight
    lines = {}
    for field in Cost._fields:
        values = {rows: float(getattr(step.costs.get(key, Cost()), field)) for rows, step in steps.items()}
        lines[field] = _line(values, curved=curved)
    return lines


def _line(values: Mapping[int, float], *, curved: bool) -> _Line:
    first, last = min(values), max(values)
    slope = (values[last] - values[first]) / (last - first)
    if curved:
        middle = ROWS[1]
        bend = (values[last] - values[middle]) / (last - middle) - (values[middle] - values[first]) / (
            middle - first
        )
        square = bend / (last - first)
        if square > 0:
            slope -= square * (last + first)
            return _Line(values[first] - slope * first - square * first**2, slope, square)
    return _Line(values[first] - slope * first, slope)


def _subtract(lines: dict[str, _Line], key: Key, base: Mapping[int, Meter]) -> dict[str, _Line]:
    ends = {rows: base[rows] for rows in (ROWS[0], ROWS[-1])}
    without = _fit(key, ends, straight=True)
    return {
        field: _Line(line.constant - without[field].constant, line.linear - without[field].linear)
        for field, line in lines.items()
    }


def _evaluate(lines: Mapping[str, _Line], rows: int, global_rows: int) -> Cost:
    return Cost(**{field: max(line.at(rows, global_rows), 0.0) for field, line in lines.items()})
