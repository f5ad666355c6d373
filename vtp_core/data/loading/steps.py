"""The rows of one rank in one step, for all views: what a worker of the loader makes."""

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
from vtp_core.data.loading.plan import SourcePlan, ViewPlan
from vtp_core.data.loading.quarantine import BadRead, histogram
from vtp_core.data.source import BadSample, Sample
from vtp_core.errors import DataError

_ATTEMPTS = 20  # replacements of one bad sample before giving up


@dataclass
class LoadedStep:
    """What a worker hands over.

    Attributes:
        batches: View -> its rows.
        rows: Samples that were used.
        bad: Samples that were replaced.
        failure: Message of a `DataError`; the step then has no batches. (An exception of a worker would lose
            its type and gain a traceback on the way.)
    """

    batches: dict[str, Batch] = field(default_factory=dict)
    rows: int = 0
    bad: list[BadRead] = field(default_factory=list)
    failure: str | None = None

    def pin_memory(self) -> LoadedStep:
        """The step with its pixels in page-locked memory; `DataLoader` calls it on a machine with a GPU."""
        self.batches = {name: batch.pin_memory() for name, batch in self.batches.items()}
        return self


class StepDataset(Dataset[LoadedStep]):
    """Map-style data set over step indices; an item is a whole step of one rank.

    Args:
        plans: Sources with their views.
        seed: The run's seed.
        rank: This rank.
        world_size: Number of ranks.
    """

    def __init__(self, plans: Sequence[SourcePlan], *, seed: int, rank: int, world_size: int) -> None:
        self.plans = plans
        self.seed = seed
        self.rank = rank
        self.world_size = world_size

    def __getitem__(self, step: int) -> LoadedStep:
        loaded = LoadedStep()
        try:
            for plan in self.plans:
                self._load(plan, step, loaded)
        except DataError as error:
            return LoadedStep(bad=loaded.bad, failure=str(error))
        return loaded

    def _load(self, plan: SourcePlan, step: int, loaded: LoadedStep) -> None:
        """Reads and decodes each sample once; every view takes its crops of it."""
        views = [_Rows(item, self, step) for item in plan.views]
        rows = range(self.rank, max(item.rows for item in plan.views), self.world_size)
        for row in rows:
            takers = [view for view in views if row < view.plan.rows]
            fields = frozenset().union(*(view.plan.fields for view in takers))
            sample = self._read(plan, step, row, fields, loaded.bad)
            for view in takers:
                view.take(sample, row)
        loaded.batches |= {view.plan.name: view.batch() for view in views}
        loaded.rows += len(rows)

    def _read(
        self, plan: SourcePlan, step: int, row: int, fields: frozenset[str], bad: list[BadRead]
    ) -> Sample:
        """The sample of a global row; what replaces a bad one depends only on (seed, place, attempt)."""
        place = step * plan.advance + row
        index = plan.order(place)
        reasons: dict[str, int] = {}
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return plan.source.read(index, fields)
            except BadSample as error:
                reasons[error.reason] = reasons.get(error.reason, 0) + 1
                bad.append(
                    BadRead(
                        step=step,
                        row=row,
                        source=plan.name,
                        index=index,
                        key=error.key,
                        reason=error.reason,
                        detail=error.detail,
                    )
                )
                index = plan.order.replacement(place, attempt)
        raise DataError(
            f"source {plan.name}: {_ATTEMPTS} samples in a row are bad ({histogram(reasons)}); the last: "
            f"{bad[-1].key} ({bad[-1].detail}); run `vtp data check` on the source"
        )


class _Rows:
    """The rows of one view while they are filled, in order."""

    def __init__(self, plan: ViewPlan, data: StepDataset, step: int) -> None:
        self.plan, self.seed, self.step = plan, data.seed, step
        self.wanted = range(data.rank, plan.rows, data.world_size)
        self.crops = empty_crops(
            plan.view, plan.need.crops if "image" in plan.fields else (), len(self.wanted)
        )
        self.keys: list[str] = []
        self.text: list[str] = []
        self.label: list[int] = []
        self.latent: Tensor | None = None

    def take(self, sample: Sample, row: int) -> None:
        """Adds a sample as the next row; `row` is its global row."""
        plan, place = self.plan, len(self.keys)
        self.keys.append(sample.key)
        if plan.need.text:
            self.text.append(_present(sample.text))
        if plan.need.label:
            self.label.append(_present(sample.label))
        if "latent" in plan.fields:
            self._take_latent(sample, place)
        else:
            cut_crops(
                _present(sample.image),
                plan.view,
                plan.augmentation,
                self.crops,
                place,
                seed=self.seed,
                step=self.step,
                name=plan.name,
                row=row,
            )

    def _take_latent(self, sample: Sample, place: int) -> None:
        latent = _present(sample.latent)
        if self.latent is None:
            self.latent = torch.empty((len(self.wanted), *latent.shape))
        if tuple(self.latent.shape[1:]) != latent.shape:
            raise DataError(
                f"sample {sample.key}: cached latent is {latent.shape}, others are "
                f"{tuple(self.latent.shape[1:])}; encode the whole set with one tokenizer"
            )
        self.latent[place] = torch.from_numpy(numpy.ascontiguousarray(latent))

    def batch(self) -> Batch:
        """All rows, once each was taken."""
        need = self.plan.need
        return Batch(
            crops=self.crops,
            keys=tuple(self.keys),
            text=tuple(self.text) if need.text else None,
            label=torch.tensor(self.label, dtype=torch.int64) if need.label else None,
            masks=self._masks(),
            latent=self.latent,
            rows=self.plan.rows,
        )

    def _masks(self) -> Masks | None:
        plan = self.plan
        if not plan.need.masked or plan.view.masks is None:
            return None
        mask, weight = draw_masks(
            plan.view.masks,
            plan.view.rows,
            plan.view.crops["global"].count,
            plan.grid,
            seed=self.seed,
            step=self.step,
            view=plan.name,
            wanted=self.wanted,
        )
        return Masks(mask=torch.from_numpy(mask), weight=torch.from_numpy(weight))


def _present(value: Any) -> Any:
    """A field that was asked for.

    Raises:
        DataError: The source left it out without a `BadSample`.
    """
    if value is None:
        raise DataError(
            "a source returned a sample without a field that was asked for; it should raise BadSample"
        )
    return value
