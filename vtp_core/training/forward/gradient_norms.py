"""Norms of the gradients that each objective leaves at the cut points, for the report."""

from __future__ import annotations

import torch
from torch import Tensor

from vtp_core.training.forward.forwards import Forwards
from vtp_core.training.ranks.world import World


class GradientNorms:
    """Norms of the gradients that the objectives of a group add to its cut points.

    Attributes:
        values: ``grad_norm_at/<verb>.<view>/<objective>`` -> norm with respect to the global loss.
    """

    def __init__(self, forwards: Forwards, world: World) -> None:
        self._forwards, self._world = forwards, world
        self._before: dict[int, Tensor] = {}
        self.values: dict[str, float] = {}

    def after(self, objective: str) -> None:
        """Measures what `objective` added since the last call."""
        squares: dict[str, Tensor] = {}
        for cut, leaves in self._forwards.leaves().items():
            total = torch.zeros((), dtype=torch.float64, device=self._world.device)
            for leaf in leaves:
                if leaf.grad is not None:
                    before = self._before.get(id(leaf))
                    added = leaf.grad if before is None else leaf.grad - before
                    total = total + added.double().square().sum()
                    self._before[id(leaf)] = leaf.grad.clone()
            squares[cut] = total
        if not squares:
            return
        sums = self._world.sum(torch.stack(list(squares.values()))).sqrt() / self._world.size
        for cut, norm in zip(squares, sums.tolist(), strict=True):
            if norm > 0:
                self.values[f"grad_norm_at/{cut}/{objective}"] = norm
