"""A rank among those of a run, and the collectives that objectives use.

By convention, the mean over ranks of an objective's loss is the global loss, and local row j of
rank r is global row j * W + r.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class World:
    """This process among the ranks of a run.

    Attributes:
        rank: 0 .. size - 1.
        size: Number of ranks W.
        device: Where tensors live.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def all_gather(self, x: Tensor) -> list[Tensor]:
        """`x` of every rank, by rank; without gradient."""
        parts = [torch.empty_like(x) for _ in range(self.size)]
        dist.all_gather(parts, x.detach().contiguous())
        return parts

    def all_reduce(self, x: Tensor) -> Tensor:
        """A new tensor, `x` added over ranks; without gradient."""
        x = x.detach().contiguous().clone()
        dist.all_reduce(x)
        return x

    def gather(self, x: Tensor) -> Tensor:
        """Rows of all ranks in global order, with gradient.

        Args:
            x: (B, ...), the same shape on every rank.

        Returns:
            (B * W, ...). Under the convention that ranks average their losses, gradients are exact.
        """
        if self.size == 1:
            return x
        gathered: Tensor = _Gather.apply(x, self)
        return gathered

    def sum(self, x: Tensor) -> Tensor:
        """`x` added over ranks, without gradient."""
        return self.all_reduce(x) if self.size > 1 else x.detach()

    def average(self, x: Tensor) -> Tensor:
        """`x` averaged over ranks, without gradient."""
        return self.sum(x) / self.size

    def mean(self, values: Tensor, weights: Tensor | None = None) -> Tensor:
        """The local share of a global (weighted) mean; averaging it over ranks gives the global mean.

        Args:
            values: Any shape; ranks may hold different numbers of values, none included.
            weights: Same shape as `values`, non-negative; None weighs all alike.

        Returns:
            A scalar; 0 (with a zero gradient) if the weights of all ranks add up to 0.
        """
        if weights is None:
            weights = torch.ones_like(values)
        weights = weights.detach().to(values.dtype)
        total = self.sum(weights.sum())
        # Shares first: the reciprocal of a denormal total would be infinite.
        shares = weights / torch.where(total > 0, total, torch.ones_like(total))
        return (values * shares).sum() * self.size


class _Gather(torch.autograd.Function):
    """All-gather whose gradient comes back to the rank that owns each row, summed over ranks."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, world: World) -> Tensor:
        ctx.world = world
        return torch.stack(world.all_gather(x), 1).flatten(0, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        world: World = ctx.world
        return world.all_reduce(grads[0])[world.rank :: world.size], None
