"""Gathers evaluators' states on rank 0 and broadcasts its results."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import Any, Self, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from vtp_core.features import Tally
from vtp_core.training.ranks.rank_objects import on_first_rank
from vtp_core.training.ranks.world import World

_T = TypeVar("_T")

TIMEOUT = timedelta(days=1)
"""How long ranks wait for rank 0 to compute; if it dies, its connections close and the wait ends."""
CHUNK = 2**28
"""Bytes per message."""

_Layout = dict[str, tuple[torch.Size, torch.dtype]]


class Gathering:
    """Context manager around an evaluation's communication; all ranks call its methods in the same order.

    Uses its own gloo process group, because that of the run has a timeout for training steps. Without other
    ranks it communicates nothing.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._group: dist.ProcessGroup | None = None

    def __enter__(self) -> Self:
        if self._world.size > 1:
            group = dist.new_group(backend="gloo", timeout=TIMEOUT)
            assert isinstance(group, dist.ProcessGroup)
            self._group = group
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._group is not None:
            dist.destroy_process_group(self._group)

    def gather(self, state: Tally) -> Tally | None:
        """The state of all ranks on the CPU: sums added, rows concatenated by rank.

        Args:
            state: This rank's, with the same names on every rank; empty rows may have shape (0,).

        Returns:
            The state of all ranks on rank 0, None on others.
        """
        if self._world.size == 1:
            return state
        tensors = {
            **{f"sums.{name}": tensor.detach().cpu().contiguous() for name, tensor in state.sums.items()},
            **{f"rows.{name}": tensor.detach().cpu().contiguous() for name, tensor in state.rows.items()},
        }
        layout: _Layout = {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
        layouts: list[Any] | None = [None] * self._world.size if self._world.rank == 0 else None
        dist.gather_object(layout, layouts, dst=0, group=self._group)
        if layouts is None:
            for tensor in tensors.values():
                self._exchange(tensor, None)
            return None
        for rank, other in enumerate(layouts):
            wrong = list(other) != list(layout) or any(
                other[name] != layout[name] for name in layout if name.startswith("sums.")
            )
            if wrong:
                raise RuntimeError(f"state of rank {rank} is {other}, that of rank 0 {layout}")
        return Tally(
            sums={name: self._sum(tensors[f"sums.{name}"]) for name in state.sums},
            rows={name: self._rows(tensors[f"rows.{name}"], f"rows.{name}", layouts) for name in state.rows},
        )

    def share(self, state: Tally) -> Tally:
        """The state of all ranks, as of `gather`, on every rank; for small ones."""
        gathered = self.gather(state)
        whole = self.from_first(lambda: gathered)
        assert whole is not None
        return whole

    def from_first(self, action: Callable[[], _T]) -> _T:
        """Calls `action` on rank 0 and returns its result, or raises its VtpError, on all ranks."""
        return action() if self._world.size == 1 else on_first_rank(action, self._group)

    def gather_objects(self, value: _T) -> list[_T]:
        """The objects of all ranks, by rank, on every rank."""
        if self._world.size == 1:
            return [value]
        values: list[Any] = [None] * self._world.size
        dist.all_gather_object(values, value, group=self._group)
        return values

    def _sum(self, own: Tensor) -> Tensor:
        total, part = own.clone(), torch.empty_like(own)
        for rank in range(1, self._world.size):
            self._exchange(part, rank)
            total += part
        return total

    def _rows(self, own: Tensor, name: str, layouts: list[_Layout]) -> Tensor:
        shapes = [layout[name] for layout in layouts]
        filled = [(shape[1:], dtype) for shape, dtype in shapes if shape[0]]
        if not filled:
            return own
        if len(set(filled)) > 1:
            raise RuntimeError(f"{name}: ranks have rows of different kinds: {filled}")
        tail, dtype = filled[0]
        counts = [shape[0] for shape, _ in shapes]
        rows = torch.empty(sum(counts), *tail, dtype=dtype)
        if counts[0]:
            rows[: counts[0]] = own
        for rank, part in enumerate(rows.split(counts)[1:], 1):
            self._exchange(part, rank)
        return rows

    def _exchange(self, tensor: Tensor, source: int | None) -> None:
        """Fills a contiguous tensor from a rank, or sends it to rank 0, as bytes."""
        if not tensor.numel():
            return
        for piece in tensor.view(-1).view(torch.uint8).split(CHUNK):
            if source is None:
                dist.send(piece, 0, group=self._group)
            else:
                dist.recv(piece, source, group=self._group)
