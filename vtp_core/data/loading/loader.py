"""The training loader: an iterator over steps with the batches of all views.

Its batches are a pure function of (seed, step, global row): there is no state to save, and the number of
workers, the world size and the first step change no value. Pixels stay uint8 until `vtp_core.batch.Batch.to`.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from vtp_core.batch import Batch
from vtp_core.data.loading.quarantine import Quarantine
from vtp_core.data.loading.steps import LoadedStep, StepDataset
from vtp_core.data.loading.streams import build_streams
from vtp_core.data.loading.workers import prepare_worker, read_all
from vtp_core.data.source import Source
from vtp_core.errors import DataError
from vtp_core.plugins import Plugins
from vtp_core.recipe.tables.views import ViewConfig
from vtp_core.view import ViewNeed

_ADVICE = "lower data.workers or data.prefetch, or give the container more; the run resumes with --resume"


class Loader:
    """Iterates over ``(step, {view: Batch})`` from `start_step` to `steps` - 1.

    Local row j of rank r is global row j * world_size + r. Views of one source read the same shuffled samples
    of a step, each decoded once; a step advances the source's stream by the rows of its largest view.

    Args:
        recipe_views: The recipe's views.
        needs: View -> union of what objectives ask of it; other views are not loaded.
        sources: Source name -> source.
        seed: The run's seed.
        rank: This rank.
        world_size: Number of ranks.
        start_step: First step.
        steps: Step after the last one.
        patch: Side of a patch in pixels, for masks.
        workers: Worker processes of this rank; 0 loads in the training process.
        prefetch: Steps that each worker prepares ahead.
        max_bad_fraction: Fraction of bad samples above which loading stops (`Quarantine`).
        quarantine: File to which bad samples are written; None: none.
        pin_memory: Whether pixels are put into page-locked memory, for asynchronous copies to a GPU.
        plugins: Where augmentations are looked up; None: views use only those of the core.

    Attributes:
        quarantine: Counts of bad samples so far.

    Raises:
        DataError: A source is empty or lacks a field that is needed.
        UsageError: Rows are not divisible by the number of ranks, or an augmentation can't be built.
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
        streams = build_streams(
            recipe_views, needs, sources, offered, seed=seed, world_size=world_size, patch=patch
        )
        self._steps = range(start_step, steps)
        self._loader: DataLoader[LoadedStep] = DataLoader(
            StepDataset(streams, seed=seed, rank=rank, world_size=world_size),
            batch_size=None,
            sampler=self._steps,
            num_workers=workers,
            prefetch_factor=prefetch if workers else None,
            worker_init_fn=prepare_worker if workers else None,
            collate_fn=_unchanged,
            pin_memory=pin_memory,
            # Without one, torch draws the workers' seed from the global generator.
            generator=torch.Generator().manual_seed(seed),
        )

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Generator[tuple[int, dict[str, Batch]]]:
        with closing(read_all(self._loader, setting="data.workers", advice=_ADVICE)) as items:
            for step, item in zip(self._steps, items, strict=False):  # none is asked for after the last step
                if item.failure is not None:
                    raise DataError(f"step {step}: {item.failure}")
                self.quarantine.add(item.rows, item.bad)
                yield step, item.batches


def _unchanged(item: Any) -> Any:
    return item
