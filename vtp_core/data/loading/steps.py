"""One rank's share of one step, for all views: what a loader's worker makes. A pure function of the step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vtp_core.data.crops.masks import draw_masks
from vtp_core.data.crops.views import cut_crops, empty_crops
from vtp_core.data.loading.plan import SourcePlan, ViewPlan
from vtp_core.data.loading.quarantine import BadRead, histogram
from vtp_core.data.source import BadSample, Sample
from vtp_core.errors import DataError

_ATTEMPTS = 20  # replacements of one bad sample before giving up


@dataclass
class Arrays:
    """Rows of one view on the way from a worker: tensors and strings, for shared memory.

    Attributes:
        crops: Crop set -> (rows, C, 3, size, size) uint8.
        keys: Sample keys.
        text: Captions, or None if not asked for.
        label: (rows,) int64, or None.
        latent: (rows, d, h, w) float32, or None.
        mask: (rows, C, N) bool, or None.
        weight: (rows, C, N) float32, or None.
    """

    crops: dict[str, Tensor]
    keys: list[str]
    text: list[str] | None
    label: Tensor | None
    latent: Tensor | None
    mask: Tensor | None = None
    weight: Tensor | None = None


@dataclass
class LoadedStep:
    """What a worker hands over.

    Attributes:
        views: View -> its rows.
        rows: Samples that were used.
        bad: Samples that were replaced.
        failure: Message of a `DataError`; then the rest is empty. (A worker's exceptions lose their type and
            gain a traceback on the way.)
    """

    views: dict[str, Arrays]
    rows: int
    bad: list[BadRead]
    failure: str | None = None

    def pin_memory(self) -> LoadedStep:
        """The step with its pixels in page-locked memory; the `DataLoader` calls it on a GPU machine."""
        for arrays in self.views.values():
            arrays.crops = {name: pixels.pin_memory() for name, pixels in arrays.crops.items()}
        return self


class Steps(Dataset[LoadedStep]):
    """Map-style data set over step indices; one item is a whole step of one rank.

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
        loaded = LoadedStep(views={}, rows=0, bad=[])
        try:
            for plan in self.plans:
                self._load(plan, step, loaded)
        except DataError as error:
            return LoadedStep(views={}, rows=0, bad=loaded.bad, failure=str(error))
        return loaded

    def _load(self, plan: SourcePlan, step: int, loaded: LoadedStep) -> None:
        """Reads and decodes each sample once and lets every view take its crops of it."""
        for item in plan.views:
            loaded.views[item.name] = self._empty(item, step)
        rows = range(self.rank, max(item.rows for item in plan.views), self.world_size)
        for place, row in enumerate(rows):
            takers = [item for item in plan.views if row < item.rows]
            fields = frozenset().union(*(item.fields for item in takers))
            sample = self._read(plan, step, row, fields, loaded.bad)
            for item in takers:
                self._take(item, loaded.views[item.name], place, row, step, sample)
        loaded.rows += len(rows)

    def _empty(self, item: ViewPlan, step: int) -> Arrays:
        wanted = range(self.rank, item.rows, self.world_size)
        crops = item.need.crops if "image" in item.fields else ()
        arrays = Arrays(
            crops=empty_crops(item.view, crops, len(wanted)),
            keys=[],
            text=[] if item.need.text else None,
            label=torch.zeros(len(wanted), dtype=torch.int64) if item.need.label else None,
            latent=None,
        )
        if item.need.masked and item.view.masks is not None:
            mask, weight = draw_masks(
                item.view.masks,
                item.view.rows,
                item.view.crops["global"].count,
                item.grid,
                seed=self.seed,
                step=step,
                view=item.name,
                wanted=wanted,
            )
            arrays.mask, arrays.weight = torch.from_numpy(mask), torch.from_numpy(weight)
        return arrays

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

    def _take(self, item: ViewPlan, out: Arrays, place: int, row: int, step: int, sample: Sample) -> None:
        out.keys.append(sample.key)
        if out.text is not None:
            out.text.append(_present(sample.text))
        if out.label is not None:
            out.label[place] = _present(sample.label)
        if "latent" in item.fields:
            latent = _present(sample.latent)
            if out.latent is None:
                out.latent = torch.empty((len(range(self.rank, item.rows, self.world_size)), *latent.shape))
            if tuple(out.latent.shape[1:]) != latent.shape:
                raise DataError(
                    f"sample {sample.key}: cached latent is {latent.shape}, others are "
                    f"{tuple(out.latent.shape[1:])}; encode the whole set with one tokenizer"
                )
            out.latent[place] = torch.from_numpy(numpy.ascontiguousarray(latent))
        else:
            cut_crops(
                _present(sample.image),
                item.view,
                out.crops,
                place,
                seed=self.seed,
                step=step,
                name=item.name,
                row=row,
            )


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
