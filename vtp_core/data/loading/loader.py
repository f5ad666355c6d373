"""The training loader: an iterator over steps with the batches of all views.

All that it yields is a pure function of (seed, step, global row): it has no state to save,
and workers, world size and start change nothing. Pixels stay uint8 until `vtp_core.batch.Batch.to`.
"""

from __future__ import annotations

import atexit
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from vtp_core.batch import Batch
from vtp_core.data.loading.plan import plan_views
from vtp_core.data.loading.quarantine import Quarantine
from vtp_core.data.loading.steps import LoadedStep, StepDataset
from vtp_core.data.source import Source
from vtp_core.errors import DataError
from vtp_core.plugins import Plugins
from vtp_core.recipe.tables.views import ViewConfig
from vtp_core.view import ViewNeed


class Loader:
    """Iterates over ``(step, {view: Batch})`` from `start_step` to `steps` - 1.

    Local row j of rank r is global row j * world_size + r. Views of one source see the same shuffled samples
    of a step, each read and decoded once; the source's stream advances by its largest view.

    Args:
        recipe_views: The recipe's views.
        needs: View -> union of what objectives ask of it; other views are not loaded.
        sources: Source name -> source.
        seed: The run's seed.
        rank: This rank.
        world_size: Number of ranks.
        start_step: First step.
        steps: Step after the last one.
        patch: Pixels a patch side, for masks.
        workers: Processes of this rank; 0 loads in this one.
        prefetch: Steps that each worker prepares ahead.
        max_bad_fraction: Share of bad samples above which it stops (`Quarantine`).
        quarantine: File to which bad samples are written; None: none.
        pin_memory: Whether pixels are put into page-locked memory, for a copy to a GPU that doesn't wait.
        plugins: Where augmentations are looked up; None: the views have only those of the core.

    Attributes:
        quarantine: Tally of bad samples so far.

    Raises:
        DataError: A source is empty or lacks a field that is asked for.
        UsageError: Rows can't be dealt to the ranks, or an augmentation can't be built.
    """

    def __init__(
        self,
        recipe_views: Mapping[str, ViewConfig],
        needs: Mapping[str, ViewNeed],
        sources: Mapping[str, Source],
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        start_step: int = 0,
        steps: int,
        patch: int,
        workers: int = 0,
        prefetch: int = 2,
        max_bad_fraction: float = 0.01,
        quarantine: Path | None = None,
        pin_memory: bool = False,
        plugins: Plugins | None = None,
    ) -> None:
        self.quarantine = Quarantine(max_bad_fraction, quarantine)
        offered = Plugins() if plugins is None else plugins
        plans = plan_views(
            recipe_views, needs, sources, offered, seed=seed, world_size=world_size, patch=patch
        )
        self._steps = range(start_step, steps)
        self._loader: DataLoader[LoadedStep] = DataLoader(
            StepDataset(plans, seed=seed, rank=rank, world_size=world_size),
            batch_size=None,
            sampler=self._steps,
            num_workers=workers,
            prefetch_factor=prefetch if workers else None,
            worker_init_fn=_ignore_signals if workers else None,
            collate_fn=_as_it_is,
            pin_memory=pin_memory,
            # Else it draws a seed for its workers from the global generator.
            generator=torch.Generator().manual_seed(seed),
        )

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[tuple[int, dict[str, Batch]]]:
        loaded = iter(self._loader)
        # Workers ignore SIGTERM, with which Python would end them at its exit and then wait for ever.
        stop = getattr(loaded, "_shutdown_workers", _nothing)
        atexit.register(stop)
        try:
            for step in self._steps:
                try:
                    item = next(loaded)
                except RuntimeError as error:
                    raise worker_death(error) or error from error
                if item.failure is not None:
                    raise DataError(f"step {step}: {item.failure}")
                self.quarantine.add(item.rows, item.bad)
                yield step, item.batches
        finally:
            stop()
            atexit.unregister(stop)


def worker_death(error: BaseException) -> DataError | None:
    """The error to show if `error` says that a loader's worker died, else None.

    torch may raise it anywhere in the main thread, as a signal tells it of the death; so the training loop
    asks this of any RuntimeError.
    """
    message = " ".join(str(error).split())
    if "DataLoader worker" not in message:
        return None
    first = message.split(". ")[0].rstrip(".")
    return DataError(
        f"{first}; it was killed, most often for want of memory or of shared memory (/dev/shm): "
        "lower data.workers or data.prefetch, or give the container more; the run resumes with --resume"
    )


def _ignore_signals(worker: int) -> None:
    """A stop signal reaches the whole process group; workers go on until the main process has saved."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _nothing() -> None:
    """There are no workers to stop."""


def _as_it_is(item: Any) -> Any:
    return item
