"""Recalls at k of both directions, with intervals over captions and trivial answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vtp_core.evaluation.intervals import HITS, OTHER_HITS, judged, resampled
from vtp_core.evaluation.protocol import Score
from vtp_plugins.evaluate_retrieval.metric import chance

Direction = Literal["both", "image_to_text", "text_to_image"]

_THIRD_HITS = (1.0, 0.0, 0.0, 1.0)
"""Two further hits and two misses of the trivial answer, unlike those of either direction."""
FREQUENT = "the most frequent captions"


@dataclass(frozen=True, kw_only=True)
class Queries:
    """How many wrong items rank before the right one, for each query.

    Attributes:
        image_caption: (n,) int64, index of each image's caption.
        images: (m,) int64, images of each caption.
        image_rank: (n,) int64, wrong captions before an image's own.
        caption_rank: (m,) int64, wrong images before the first of a caption's.
    """

    image_caption: Tensor
    images: Tensor
    image_rank: Tensor
    caption_rank: Tensor

    def recalls(self, k: int) -> Recalls:
        """Recalls at k."""
        frequent = torch.zeros(len(self.images), dtype=torch.bool)
        frequent[self.images.argsort(dim=0, descending=True, stable=True)[:k]] = True
        found = torch.zeros(len(self.images), dtype=torch.float64)
        found.scatter_add_(0, self.image_caption, (self.image_rank < k).double())
        return Recalls(k=k, images=self.images, found=found, hit=self.caption_rank < k, frequent=frequent)


@dataclass(frozen=True, kw_only=True)
class Recalls:
    """Hits at k by caption.

    Attributes:
        k: The rank.
        images: (m,) int64, images of each caption.
        found: (m,) float64, how many of them found the caption.
        hit: (m,) bool, whether the caption found one of them.
        frequent: (m,) bool, the k captions of most images.
    """

    k: int
    images: Tensor
    found: Tensor
    hit: Tensor
    frequent: Tensor

    @property
    def image_to_text(self) -> float:
        """Images that found their caption."""
        return float(self.found.sum() / self.images.sum())

    @property
    def text_to_image(self) -> float:
        """Captions that found an image."""
        return float(self.hit.double().mean())

    def score(self, direction: Direction, *, also: Mapping[str, float]) -> Score:
        """The recall with its interval and trivial answers; captions are drawn with all their images.

        Args:
            direction: Which one, or the mean of both.
            also: `Score.also`.
        """
        own = {"image_to_text": self.image_to_text, "text_to_image": self.text_to_image}
        images = int(self.images.sum())
        random = {
            "image_to_text": min(self.k / len(self.images), 1.0),
            "text_to_image": chance(self.images, images, self.k),
        }
        draws = _of(direction, *_means(self._terms()))
        by_chance = _mean_of(direction, random)
        trivial = {"chance": (by_chance, torch.tensor(by_chance, dtype=torch.float64))}
        if int(self.images.max()) > 1:
            shared = self.frequent.double()
            alike = {
                "image_to_text": float((shared * self.images).sum() / images),
                "text_to_image": float(shared.mean()),
            }
            terms = torch.cat([self._terms(), self._frequent_terms()], 1)
            found, hit, by_found, by_hit = _means(terms)
            gain = _of(direction, found, hit) - _of(direction, by_found, by_hit)
            trivial[FREQUENT] = (_mean_of(direction, alike), draws - gain)
        return judged(_mean_of(direction, own), draws, trivial, also=also)

    def _terms(self) -> Tensor:
        """(m + 4, 3): images found, images, hits; with four further captions of one image each."""
        extra = torch.tensor([HITS, (1.0, 1.0, 1.0, 1.0), OTHER_HITS], dtype=torch.float64).T
        return torch.cat([torch.stack([self.found, self.images.double(), self.hit.double()], 1), extra])

    def _frequent_terms(self) -> Tensor:
        """(m + 4, 2): images found and hits of the most frequent captions."""
        shared = self.frequent.double()
        extra = torch.tensor([_THIRD_HITS, _THIRD_HITS], dtype=torch.float64).T
        return torch.cat([torch.stack([shared * self.images, shared], 1), extra])


def _means(terms: Tensor) -> list[Tensor]:
    """Recalls of drawn sets: columns 0 and 3 by image, columns 2 and 4 by caption."""
    means = resampled(terms).unbind(1)
    images = means[1]
    return [means[0] / images, means[2], *([means[3] / images, means[4]] if len(means) > 3 else [])]


def _of(direction: Direction, by_image: Tensor, by_caption: Tensor) -> Tensor:
    if direction == "both":
        return (by_image + by_caption) / 2
    return by_image if direction == "image_to_text" else by_caption


def _mean_of(direction: Direction, values: Mapping[str, float]) -> float:
    return sum(values.values()) / 2 if direction == "both" else values[direction]
