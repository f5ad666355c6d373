"""One network forward of a step, which grows with the rows that are asked of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from vtp_core.training.forward.cut import Cut, Tree, join_rows, take_rows


@dataclass(kw_only=True)
class Forward:
    """Cuts that cover the rows 0 .. `rows` - 1 of one (role, verb, view, masked)."""

    cuts: list[Cut] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    rows: int = 0
    given: dict[int, Tree] = field(default_factory=dict)

    def first(self, rows: int) -> Tree:
        """The outputs of the first rows; the same tensors whenever asked."""
        if rows not in self.given:
            outputs = join_rows([cut.outputs for cut in self.cuts])
            self.given[rows] = outputs if rows == self.rows else take_rows(outputs, slice(0, rows))
        return self.given[rows]

    def gradient(self, rows: int, position: int) -> Tensor:
        """Gradient that has reached the first rows of the output tensor at `position` so far."""
        leaves = [cut.leaves()[position] for cut in self.cuts]
        grads = [leaf.grad if leaf.grad is not None else torch.zeros_like(leaf) for leaf in leaves]
        return torch.cat(grads)[:rows]

    def mean(self, kind: Literal["aux", "report"]) -> dict[str, Tensor]:
        """Means over all rows of the cuts' scalars."""
        scalars: dict[str, Tensor] = {}
        for cut in self.cuts:
            share = cut.row_count / self.rows
            for name, value in getattr(cut, kind).items():
                scalars[name] = scalars.get(name, torch.zeros_like(value)) + value * share
        return scalars
