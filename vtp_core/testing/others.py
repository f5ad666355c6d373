"""The gradients that the other objectives of a group would have left at the cut points."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vtp_core.training.forward.cut import Cut
from vtp_core.training.forward.observer import Key, Observer
from vtp_core.training.ranks.world import World


class Others(Observer):
    """Leaves a constant gradient at each of the student's cuts, for `step.balance` to weigh against.

    Args:
        world: This rank.
        norm: Norm of the gradient at a cut, with respect to the global loss; the same at any world size.
    """

    def __init__(self, world: World, norm: float = 1.0) -> None:
        self._world, self._norm = world, norm
        self._leaves: list[Tensor] = []

    def ran(self, key: Key, cut: Cut, module: nn.Module) -> None:
        """Sets the gradients of new leaves."""
        for leaf in cut.leaves():
            if leaf.requires_grad and key[1] != "call":
                leaf.grad = torch.full_like(leaf, self._norm * (self._world.size / leaf.numel()) ** 0.5)
                self._leaves.append(leaf)

    def clear(self) -> None:
        """Removes these gradients before the tested objective's own backward."""
        while self._leaves:
            self._leaves.pop().grad = None
