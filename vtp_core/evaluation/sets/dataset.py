"""Evaluation sets: a source, its name in protocols, and the samples to use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from vtp_core.batch import Batch
from vtp_core.data.completeness import Lost, lost
from vtp_core.data.source import BadSample, Sample, Source
from vtp_core.errors import DataError
from vtp_core.evaluation.named_protocol import Preparation
from vtp_core.evaluation.protocol import SetFacts
from vtp_core.evaluation.sets.cutting import Cut, cutter
from vtp_core.view import Size


@dataclass(frozen=True)
class Subset:
    """A source of selected samples of another source.

    Attributes:
        source: The whole source.
        indices: Which of its samples, in order.
    """

    source: Source
    indices: Sequence[int]

    @property
    def fields(self) -> frozenset[str]:
        """Fields of the source."""
        return self.source.fields

    @property
    def classes(self) -> Sequence[str]:
        """Class names of the source."""
        return self.source.classes

    def lost(self) -> Lost:
        """What the whole source has lost."""
        return lost(self.source)

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int, fields: frozenset[str]) -> Sample:
        """The sample at a position of the subset."""
        return self.source.read(self.indices[index], fields)


@dataclass(frozen=True, kw_only=True)
class EvaluationSet:
    """A source to evaluate on.

    Attributes:
        name: Its name in protocols.
        source: Where samples come from.
        limit: Use that many samples, spread evenly over the source; None: all.
        skip_bad: Whether bad samples are left out instead of being an error, as in training sets; the
            protocol has the number of samples that were read.
        how: Crop of the images.
        view: Which random crop of each image is read instead; None: none.
    """

    name: str
    source: Source
    limit: int | None = None
    skip_bad: bool = False
    how: Preparation = field(default_factory=Preparation)
    view: int | None = None

    def indices(self) -> Sequence[int]:
        """The chosen samples, ascending, each once."""
        total = len(self.source)
        if self.limit is None or self.limit >= total:
            return range(total)
        return [position * total // self.limit for position in range(self.limit)]

    def batches(
        self,
        size: Size,
        rows: int,
        rank: int = 0,
        world_size: int = 1,
        fields: frozenset[str] = frozenset({"image"}),
    ) -> Iterator[Batch]:
        """This rank's samples in index order, `rows` at a time, at `size` pixels, with these fields."""
        own = Subset(self.source, self.indices()[rank::world_size])
        return evaluation_batches(
            own, size, rows, fields=fields, skip_bad=self.skip_bad, how=self.how, view=self.view
        )

    def subset(self, indices: Sequence[int]) -> EvaluationSet:
        """The samples at some positions of `indices()`."""
        chosen = self.indices()
        return replace(self, source=Subset(self.source, [chosen[i] for i in indices]), limit=None)

    def facts(self, samples: int) -> SetFacts:
        """The set in the protocol, of which `samples` were read.

        Raises:
            DataError: Nothing was read.
        """
        if samples == 0:
            raise DataError(f"{self.name}: no usable sample to evaluate on; run `vtp data check`")
        missing = len(lost(self.source))
        return SetFacts(name=self.name, samples=samples, total=len(self.source), lost=missing)


def evaluation_batches(
    source: Source,
    size: Size,
    rows: int,
    *,
    fields: frozenset[str] | None = None,
    skip_bad: bool = False,
    how: Preparation | None = None,
    view: int | None = None,
) -> Iterator[Batch]:
    """Yields each sample once, by ascending index; the last batch may be smaller.

    Images are resized and centre-cropped, by default by ADM's `vtp_core.data.crops.geometry.center_crop`.

    Args:
        source: Where samples come from.
        size: Side of the images in pixels.
        rows: Samples per batch.
        fields: What to read; None: all fields of the source except cached latents.
        skip_bad: Whether bad samples are left out.
        how: Crop of the images.
        view: Which random crop of each image is read instead; None: none.

    Yields:
        Batches with one crop set "global", uint8 (B, 1, 3, size, size).

    Raises:
        DataError: A sample is bad and `skip_bad` is not set.
    """
    wanted = source.fields - {"latent"} if fields is None else fields
    indices = range(len(source))
    for start in range(0, len(source), rows):
        read = [_read(source, index, wanted, skip_bad) for index in indices[start : start + rows]]
        if samples := [sample for sample in read if sample is not None]:
            yield _batch(samples, cutter(how or Preparation(), size, view))


def _read(source: Source, index: int, fields: frozenset[str], skip_bad: bool) -> Sample | None:
    try:
        return source.read(index, fields)
    except BadSample as error:
        if skip_bad:
            return None
        raise DataError(
            f"bad evaluation sample: {error}; evaluations use whole sets: repair or remove it "
            "(`vtp data check` lists all)"
        ) from error


def _batch(samples: Sequence[Sample], cut: Cut) -> Batch:
    crops: dict[str, Tensor] = {}
    if all(sample.image is not None for sample in samples):
        images = [cut(sample.image, sample.key) for sample in samples if sample.image is not None]
        crops["global"] = torch.stack(images)[:, None]
    texts = [sample.text for sample in samples if sample.text is not None]
    labels = [sample.label for sample in samples if sample.label is not None]
    latents = [torch.from_numpy(sample.latent) for sample in samples if sample.latent is not None]
    count = len(samples)
    return Batch(
        crops=crops,
        keys=tuple(sample.key for sample in samples),
        text=tuple(texts) if len(texts) == count else None,
        label=torch.tensor(labels, dtype=torch.int64) if len(labels) == count else None,
        latent=torch.stack(latents) if len(latents) == count else None,
        rows=count,
    )
