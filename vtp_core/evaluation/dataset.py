"""The sets that an evaluation reads: a source, a name for the protocol, and which of its samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from vtp_core.batch import Batch
from vtp_core.data.source import Sample, Source
from vtp_core.errors import DataError
from vtp_core.evaluation.protocol import SetFacts


@dataclass(frozen=True)
class Subset:
    """Some samples of a source, as a source.

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

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int, fields: frozenset[str]) -> Sample:
        """The sample at a position of the subset."""
        return self.source.read(self.indices[index], fields)


@dataclass(frozen=True, kw_only=True)
class EvaluationSet:
    """A source to evaluate on.

    Attributes:
        name: What the protocol calls it.
        source: Where the samples are.
        limit: Use that many samples, spread evenly over the source; None: all.
        skip_bad: Whether bad samples are left out instead of being an error. For sets that one learns from:
            training passes over them too, and the protocol says how many were seen.
    """

    name: str
    source: Source
    limit: int | None = None
    skip_bad: bool = False

    def indices(self) -> Sequence[int]:
        """The chosen samples, ascending, each once."""
        total = len(self.source)
        if self.limit is None or self.limit >= total:
            return range(total)
        return [position * total // self.limit for position in range(self.limit)]

    def batches(
        self,
        size: int,
        rows: int,
        rank: int = 0,
        world_size: int = 1,
        fields: frozenset[str] = frozenset({"image"}),
    ) -> Iterator[Batch]:
        """This rank's samples in index order, `rows` at a time, at `size` pixels, with these fields."""
        from vtp_core.data.loading.loader import evaluation_batches

        share = Subset(self.source, self.indices()[rank::world_size])
        return evaluation_batches(share, size, rows, fields=fields, skip_bad=self.skip_bad)

    def subset(self, indices: Sequence[int]) -> EvaluationSet:
        """The samples at some positions of `indices()`."""
        chosen = self.indices()
        return replace(self, source=Subset(self.source, [chosen[i] for i in indices]), limit=None)

    def facts(self, samples: int) -> SetFacts:
        """What the protocol says, once `samples` of the source have been read.

        Raises:
            DataError: Nothing was read.
        """
        if samples == 0:
            raise DataError(f"{self.name}: no usable sample to evaluate on; run `vtp data check`")
        return SetFacts(name=self.name, samples=samples, total=len(self.source))
