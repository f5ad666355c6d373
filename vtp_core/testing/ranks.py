"""Several ranks, as threads or processes, to show that a gradient is that of the whole batch."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from vtp_core.training.ranks.world import World

T = TypeVar("T")
PATIENCE = timedelta(seconds=120)
"""How long a rank of `run_processes` waits for the others: a hang becomes a failure."""


class Ranks(Protocol):
    """What a step needs to know of the other ranks; `vtp_core.training.ranks.world.World` is the real one."""

    @property
    def rank(self) -> int: ...  # noqa: D102
    @property
    def size(self) -> int: ...  # noqa: D102
    def gather(self, x: Tensor) -> Tensor: ...  # noqa: D102
    def sum(self, x: Tensor) -> Tensor: ...  # noqa: D102
    def mean(self, values: Tensor, weights: Tensor | None = None) -> Tensor: ...  # noqa: D102


class _Exchange:
    """Where threads meet: every rank puts a value down and takes all of them."""

    def __init__(self, size: int, timeout: float) -> None:
        self._slots: list[tuple[str, Tensor] | None] = [None] * size
        self._barrier = threading.Barrier(size, timeout=timeout)

    def swap(self, rank: int, verb: str, value: Tensor) -> list[Tensor]:
        self._slots[rank] = (verb, value)
        self._barrier.wait()
        slots = [slot for slot in self._slots if slot is not None]
        self._barrier.wait()
        verbs = {name for name, _ in slots}
        if len(verbs) > 1:
            raise RuntimeError(f"ranks met in different collectives: {sorted(verbs)}")
        return [held for _, held in slots]

    def abort(self) -> None:
        self._barrier.abort()


class ThreadWorld:
    """One of W ranks that are threads of this process.

    `gather` hands out the other ranks' live tensors, graph included: one backward of the mean of all losses
    is the gradient of the global loss by plain autograd, with no collective to trust.
    """

    def __init__(self, rank: int, size: int, exchange: _Exchange) -> None:
        self.rank, self.size, self._exchange = rank, size, exchange

    def gather(self, x: Tensor) -> Tensor:
        """(B, ...) -> (B * W, ...) in global row order, with gradient."""
        return torch.stack(self._exchange.swap(self.rank, "gather", x), 1).flatten(0, 1)

    def sum(self, x: Tensor) -> Tensor:
        """`x` added over ranks, without gradient."""
        return torch.stack(self._exchange.swap(self.rank, "sum", x.detach())).sum(0)

    def mean(self, values: Tensor, weights: Tensor | None = None) -> Tensor:
        """The local share of a global (weighted) mean."""
        weights = torch.ones_like(values) if weights is None else weights.detach().to(values.dtype)
        total = self.sum(weights.sum())
        share = (values * weights).sum() * self.size
        return share / total if total > 0 else share * 0


def run_ranks(size: int, body: Callable[[ThreadWorld], T], *, timeout: float = 60.0) -> list[T]:
    """Runs `body` as W ranks in threads.

    Args:
        size: Number of ranks W.
        body: Called with each rank's world. Must not use the global random generator.
        timeout: Seconds after which a rank that waits for the others gives up.

    Returns:
        What each rank returned, in order.

    Raises:
        Exception: The first error of a rank that is not merely the others' waiting in vain.
    """
    exchange = _Exchange(size, timeout)

    def run(rank: int) -> T:
        try:
            return body(ThreadWorld(rank, size, exchange))
        except BaseException:
            exchange.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(run, rank) for rank in range(size)]
    errors = [error for error in (future.exception() for future in futures) if error is not None]
    for error in errors:
        if not isinstance(error, threading.BrokenBarrierError):
            raise error
    if errors:
        raise RuntimeError("a rank waited for the others in vain: they made fewer collective calls")
    return [future.result() for future in futures]


def run_processes(
    size: int, body: Callable[..., Mapping[str, Tensor]], *arguments: Any
) -> list[dict[str, Tensor]]:
    """Runs `body` as W real gloo ranks, each a process of its own.

    Args:
        size: Number of ranks W.
        body: A module-level function, called with a `World` and `arguments`; returns named tensors.
        arguments: Picklable.

    Returns:
        The tensors of each rank, in order.
    """
    with tempfile.TemporaryDirectory() as folder:
        spawn(_run_process, (size, folder, body, arguments), nprocs=size)
        return [torch.load(Path(folder, f"{rank}.pt"), weights_only=True) for rank in range(size)]


def _run_process(
    rank: int, size: int, folder: str, body: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size, timeout=PATIENCE)
    torch.save(dict(body(World(rank=rank, size=size), *arguments)), Path(folder, f"{rank}.pt"))
    dist.barrier()
    os._exit(0)  # the threads of a process group may abort an ordinary exit
