"""Several ranks, as threads or as processes."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import ProcessExitedException, start_processes

from vtp_core.training.ranks.world import World

T = TypeVar("T")
PATIENCE = timedelta(seconds=120)
"""Time-out of collectives in `run_processes`: a hang becomes a failure."""


class _Exchange:
    """Where rank threads meet: every rank hands in a tensor and gets those of all.

    Only one thread computes at a time, as threads share torch's global generator.
    """

    def __init__(self, size: int, timeout: float) -> None:
        self._slots: list[tuple[str, Tensor] | None] = [None] * size
        self._barrier = threading.Barrier(size, timeout=timeout)
        self.turn = threading.Lock()

    def swap(self, rank: int, verb: str, value: Tensor) -> list[Tensor]:
        self._slots[rank] = (verb, value)
        self.turn.release()
        try:
            self._barrier.wait()
            slots = [slot for slot in self._slots if slot is not None]
            self._barrier.wait()
        finally:
            self.turn.acquire()
        calls = {(name, tuple(held.shape)) for name, held in slots}
        if len(calls) > 1:
            raise RuntimeError(f"ranks met in different collectives: {sorted(calls)}")
        return [held for _, held in slots]

    def abort(self) -> None:
        self._barrier.abort()


@dataclass(frozen=True, kw_only=True)
class ThreadWorld(World):
    """One of W ranks that are threads of this process, with the collectives of a real one."""

    exchange: _Exchange

    def all_gather(self, x: Tensor) -> list[Tensor]:
        """`x` of every rank, by rank; without gradient."""
        return self.exchange.swap(self.rank, "all_gather", x.detach())

    def all_reduce(self, x: Tensor) -> Tensor:
        """A new tensor, `x` added over ranks; without gradient."""
        return torch.stack(self.exchange.swap(self.rank, "all_reduce", x.detach())).sum(0)


def run_ranks(size: int, body: Callable[[World], T], *, timeout: float = 60.0) -> list[T]:
    """Runs `body` as W ranks in threads.

    Args:
        size: Number of ranks W.
        body: Called with each rank's world.
        timeout: Seconds after which a rank that waits for the others gives up.

    Returns:
        What each rank returned, in order.

    Raises:
        Exception: The first error of a rank other than that of waiting for the others.
    """
    exchange = _Exchange(size, timeout)

    def run(rank: int) -> T:
        with exchange.turn:
            try:
                return body(ThreadWorld(rank=rank, size=size, exchange=exchange))
            except BaseException:
                exchange.abort()
                raise

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(run, rank) for rank in range(size)]
    errors = [error for error in (future.exception() for future in futures) if error is not None]
    for error in errors:
        if not _waited(error):
            raise error
    if errors:
        raise RuntimeError("a rank waited until the timeout: the others made fewer collective calls")
    return [future.result() for future in futures]


def _waited(error: BaseException) -> bool:
    """Whether an error, or one that it was made of, is that of a rank that waited for another that failed."""
    below: BaseException | None = error
    while below is not None and not isinstance(below, threading.BrokenBarrierError):
        below = below.__cause__ or below.__context__
    return below is not None


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

    Raises:
        ProcessRaisedException: A rank's error, with its traceback.
        ProcessExitedException: A signal ended a rank; of a crash, its notes have each thread's stack.
    """
    with tempfile.TemporaryDirectory() as folder:
        environment = dict(os.environ)
        try:
            start_processes(
                _run_process,
                (size, folder, environment, body, arguments),
                nprocs=size,
                start_method=_start_method(),
            )
        except ProcessExitedException as error:
            stacks = _stacks(folder, error.error_index)
            error.add_note(stacks.read_text() if stacks.exists() else "it had not called its function yet")
            raise
        return [torch.load(Path(folder, f"{rank}.pt"), weights_only=True) for rank in range(size)]


def _stacks(folder: str, rank: int) -> Path:
    return Path(folder, f"{rank}.txt")


def _start_method() -> str:
    """On Linux processes are forked from a server that has imported torch, which saves each 2 seconds."""
    if sys.platform != "linux":
        return "spawn"
    multiprocessing.get_context("forkserver").set_forkserver_preload([__name__])
    return "forkserver"


def _run_process(
    rank: int,
    size: int,
    folder: str,
    environment: Mapping[str, str],
    body: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    os.environ.clear()  # the server's, from when it started
    os.environ.update(environment)
    stacks = _stacks(folder, rank).open("w")  # open as long as the process lives
    faulthandler.enable(stacks)
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size, timeout=PATIENCE)
    torch.save(dict(body(World(rank=rank, size=size), *arguments)), Path(folder, f"{rank}.pt"))
    dist.barrier()
    os._exit(0)  # the threads of a process group may abort an ordinary exit
