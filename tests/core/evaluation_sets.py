"""Evaluation sets made of tensors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from vtp_core.batch import Batch
from vtp_core.data.source import Sample
from vtp_core.evaluation.sets.dataset import EvaluationSet


@dataclass(frozen=True)
class ArraySource:
    """Images (n, H, W, 3) uint8 with captions and labels."""

    images: np.ndarray
    texts: tuple[str, ...] | None = None
    labels: tuple[int, ...] | None = None
    classes: tuple[str, ...] = ()

    @property
    def fields(self) -> frozenset[str]:
        text = {"text"} if self.texts is not None else set()
        label = {"label"} if self.labels is not None else set()
        return frozenset({"image"} | text | label)

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int, fields: frozenset[str]) -> Sample:
        return Sample(
            key=f"s{index}",
            image=self.images[index],
            text=None if self.texts is None else self.texts[index],
            label=None if self.labels is None else self.labels[index],
        )


@dataclass(frozen=True, kw_only=True)
class ArraySet(EvaluationSet):
    """Reads its source without the loader."""

    def batches(
        self,
        size: int,
        rows: int,
        rank: int = 0,
        world_size: int = 1,
        fields: frozenset[str] = frozenset({"image"}),
        *,
        skip_bad: bool = False,
    ) -> Iterator[Batch]:
        share = list(self.indices())[rank::world_size]
        for start in range(0, len(share), rows):
            samples = [self.source.read(i, self.source.fields) for i in share[start : start + rows]]
            pixels = torch.stack([torch.from_numpy(s.image).permute(2, 0, 1) for s in samples])
            yield Batch(
                crops={"global": pixels[:, None]},
                keys=tuple(s.key for s in samples),
                text=tuple(str(s.text) for s in samples) if "text" in fields else None,
                label=torch.tensor([s.label for s in samples]) if "label" in fields else None,
                rows=len(samples),
            )


def drawn_set(name: str, count: int, seed: int, *, size: int = 16, classes: int = 3) -> ArraySet:
    """Images whose mean colour tells the class, with noise; captions name it."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    colours = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200]])[labels % 3]
    images = np.clip(colours[:, None, None, :] + rng.normal(0, 40, (count, size, size, 3)), 0, 255)
    names = ("red", "green", "blue")[:classes]
    source = ArraySource(
        images=images.astype(np.uint8),
        texts=tuple(f"{names[label]} {i}" for i, label in enumerate(labels)),
        labels=tuple(int(label) for label in labels),
        classes=names,
    )
    return ArraySet(name=name, source=source)
