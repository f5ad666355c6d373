"""One step of one rank, with the rows of all views: what a worker of the loader makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vtp_core.batch import Batch, Masks
from vtp_core.data.crops.masks import draw_masks
from vtp_core.data.crops.views import cut_crops, empty_crops
from vtp_core.data.loading.quarantine import BadRead, histogram
from vtp_core.data.loading.streams import Stream, StreamView
from vtp_core.data.source import BadSample, Sample
from vtp_core.errors import DataError

_ATTEMPTS = 20  # replacements of one bad sample before the run stops


@dataclass
class LoadedStep:
    """A loaded step, as a worker sends it to the training process.

    Attributes:
        batches: View -> its rows.
        rows: Number of samples in use.
        bad: Samples that were replaced.
        failure: Message of a `DataError`; the step then has no batches. (An exception of a worker would lose
            its type and gain a traceback.)
    """

    batches: dict[str, Batch] = field(default_factory=dict)
    rows: int = 0
    bad: list[BadRead] = field(default_factory=list)
    failure: str | None = None

    def pin_memory(self) -> LoadedStep:
        """The step with its pixels in page-locked memory; `DataLoader` calls it if there is a GPU."""
        self.batches = {name: batch.pin_memory() for name, batch in self.batches.items()}
        return self


class StepDataset(Dataset[LoadedStep]):
    """Map-style data set over step indices; an item is a whole step of one rank.

    Args:
        streams: Sources with the views that read them.
        seed: The run's seed.
        rank: This rank.
        world_size: Number of ranks.
    """

    def __init__(self, streams: Sequence[Stream], *, seed: int, rank: int, world_size: int) -> None:
        self.streams = streams
        self.seed = seed
        self.rank = rank
        self.world_size = world_size

    def __getitem__(self, step: int) -> LoadedStep:
        loaded = LoadedStep()
        try:
            for stream in self.streams:
                self._load(stream, step, loaded)
        except DataError as error:
            return LoadedStep(bad=loaded.bad, failure=str(error))
        return loaded

    def _load(self, stream: Stream, step: int, loaded: LoadedStep) -> None:
        """Reads and decodes each sample once; every view cuts its crops from it."""
        views = [_Rows(view, self, step) for view in stream.views]
        rows = range(self.rank, max(view.rows for view in stream.views), self.world_size)
        for row in rows:
            readers = [view for view in views if row < view.view.rows]
            fields = frozenset().union(*(view.view.fields for view in readers))
            sample = self._read(stream, step, row, fields, loaded.bad)
            for view in readers:
                view.add(sample, row)
        loaded.batches |= {view.view.name: view.batch() for view in views}
        loaded.rows += len(rows)

    def _read(
        self, stream: Stream, step: int, row: int, fields: frozenset[str], bad: list[BadRead]
    ) -> Sample:
        """The sample of a global row; a replacement depends only on (seed, position, attempt)."""
        position = step * stream.advance + row
        index = stream.order(position)
        reasons: dict[str, int] = {}
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return stream.read(index, position, fields)
            except BadSample as error:
                reasons[error.reason] = reasons.get(error.reason, 0) + 1
                bad.append(
                    BadRead(
                        step=step,
                        row=row,
                        source=stream.name,
                        index=index,
                        key=error.key,
                        reason=error.reason,
                        detail=error.detail,
                    )
                )
                index = stream.order.replacement(position, attempt)
        raise DataError(
            f"source {stream.name}: {_ATTEMPTS} samples in a row are bad ({histogram(reasons)}); the last: "
            f"{bad[-1].key} ({bad[-1].detail}); run `vtp data check` on the source"
        )


class _Rows:
    """The rows of one view, filled in order."""

    def __init__(self, view: StreamView, data: StepDataset, step: int) -> None:
        self.view, self.seed, self.step = view, data.seed, step
        self.global_rows = range(data.rank, view.rows, data.world_size)
        crops = view.need.crops if "image" in view.fields else ()
        self.crops = empty_crops(view.config, crops, len(self.global_rows))
        self.keys: list[str] = []
        self.text: list[str] = []
        self.label: list[int] = []
        self.latent: Tensor | None = None

    def add(self, sample: Sample, row: int) -> None:
        """Adds a sample as the next row; `row` is its global row."""
        view, place = self.view, len(self.keys)
        self.keys.append(sample.key)
        if view.need.text:
            self.text.append(_present(sample.text))
        if view.need.label:
            self.label.append(_present(sample.label))
        if "latent" in view.fields:
            self._add_latent(sample, place)
        else:
            cut_crops(
                _present(sample.image),
                view.config,
                view.augmentation,
                self.crops,
                place,
                seed=self.seed,
                step=self.step,
                name=view.name,
                row=row,
            )

    def _add_latent(self, sample: Sample, place: int) -> None:
        latent = _present(sample.latent)
        if self.latent is None:
            self.latent = torch.empty((len(self.global_rows), *latent.shape))
        if tuple(self.latent.shape[1:]) != latent.shape:
            raise DataError(
                f"sample {sample.key}: cached latent is {latent.shape}, others are "
                f"{tuple(self.latent.shape[1:])}; encode the whole set with one tokenizer"
            )
        self.latent[place] = torch.from_numpy(numpy.ascontiguousarray(latent))

    def batch(self) -> Batch:
        """The rows as a batch, after the last one was added."""
        need = self.view.need
        return Batch(
            crops=self.crops,
            keys=tuple(self.keys),
            text=tuple(self.text) if need.text else None,
            label=torch.tensor(self.label, dtype=torch.int64) if need.label else None,
            masks=self._masks(),
            latent=self.latent,
            rows=self.view.rows,
        )

    def _masks(self) -> Masks | None:
        view = self.view
        if not view.need.masked or view.config.masks is None:
            return None
        mask, weight = draw_masks(
            view.config.masks,
            view.config.rows,
            view.config.crops["global"].count,
            view.grid,
            seed=self.seed,
            step=self.step,
            view=view.name,
            wanted=self.global_rows,
        )
        return Masks(mask=torch.from_numpy(mask), weight=torch.from_numpy(weight))


def _present(value: Any) -> Any:
    """A field that was requested.

    Raises:
        DataError: The source returned a sample without it.
    """
    if value is None:
        raise DataError(
            "a source returned a sample without a field that was requested; it must raise BadSample instead"
        )
    return value
