"""Image-text retrieval by embeddings."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vtp_core.errors import DataError
from vtp_core.evaluation.evaluator import Evaluator, Observation
from vtp_core.evaluation.intervals import HITS, OTHER_HITS, judged, resampled
from vtp_core.evaluation.protocol import Metric, Score
from vtp_core.features import Tally
from vtp_core.tokenizer import Tokenizer
from vtp_plugins.evaluate_retrieval.config import RetrievalConfig
from vtp_plugins.evaluate_retrieval.metric import chance, wrong_before_right


class Retrieval(Evaluator):
    """Recall@k over the whole held-out set, mean of both directions.

    Image to text: each image is a query for its caption among the distinct captions. Text to image: each
    distinct caption is a query for any of its images. Repeated captions thus count once. The baseline is the
    expected recall of a random ranking.
    """

    requires = frozenset({"encode", "embed_image", "embed_text"})
    fields = frozenset({"text"})
    config: RetrievalConfig

    def __init__(self, config: RetrievalConfig) -> None:
        super().__init__(config)
        self._rows: dict[str, list[Tensor]] = {}

    @property
    def protocol(self) -> str:
        """Name, version and settings."""
        return "retrieval-v1 (cosine, every image against every distinct caption and back, ties are misses)"

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """`retrieval_r<k>`."""
        return {
            f"retrieval_r{k}": Metric(title=f"Retrieval, recall at {k}", digits=3) for k in self.config.at
        }

    def begin(self, model: Tokenizer, classes: Sequence[str]) -> None:
        """Clears the collected embeddings."""
        self._rows = {}

    def update(self, seen: Observation) -> None:
        """Embeds a held-out batch."""
        assert seen.batch.text is not None
        parts = {
            "image": F.normalize(seen.image_embedding.float(), dim=1),
            "text": F.normalize(seen.model.embed_text(seen.batch.text).float(), dim=1),
            "caption": torch.tensor([_digest(text) for text in seen.batch.text], dtype=torch.int64),
        }
        for name, values in parts.items():
            self._rows.setdefault(name, []).append(values.cpu())

    def state(self) -> Tally:
        """Embeddings, and 63 bits of the hash of each caption."""
        empty = {
            "image": torch.zeros(0),
            "text": torch.zeros(0),
            "caption": torch.zeros(0, dtype=torch.int64),
        }
        return Tally(
            rows={name: torch.cat(self._rows[name]) if name in self._rows else empty[name] for name in empty}
        )

    def compute(self, state: Tally) -> Mapping[str, Score]:
        """`retrieval_r<k>`: recalls, 0 to 1."""
        image, text, caption = (state.rows[name] for name in ("image", "text", "caption"))
        if len(caption.unique()) < 2:
            raise DataError("evaluator retrieval: needs two different held-out captions or more")
        distinct, inverse, counts = caption.unique(return_inverse=True, return_counts=True)
        # Equal captions have equal embeddings; any one of them represents all.
        first = torch.zeros(len(distinct), dtype=torch.int64).scatter_(0, inverse, torch.arange(len(caption)))
        to_text = wrong_before_right(image, text[first], caption, distinct)
        to_image = wrong_before_right(text[first], image, distinct, caption)
        scores = {}
        for k in self.config.at:
            directions = {
                "image_to_text": float((to_text < k).double().mean()),
                "text_to_image": float((to_image < k).double().mean()),
            }
            by_chance = min(k / len(distinct), 1.0), chance(counts, len(caption), k)
            scores[f"retrieval_r{k}"] = judged(
                sum(directions.values()) / 2,
                _draws(to_text < k, to_image < k, inverse, counts),
                {"chance": (sum(by_chance) / 2, torch.tensor(sum(by_chance) / 2))},
                also={**directions, "distinct_captions": len(distinct)},
            )
        return scores


def _draws(to_text: Tensor, to_image: Tensor, caption: Tensor, images: Tensor) -> Tensor:
    """Recalls of sets of captions that are drawn with all their images, against the whole gallery.

    Args:
        to_text: (n,) bool, whether each image found its caption.
        to_image: (k,) bool, whether each distinct caption found an image.
        caption: (n,) int64, index of each image's caption.
        images: (k,) int64, images of each caption.
    """
    found = torch.zeros(len(images), dtype=torch.float64).scatter_add_(0, caption, to_text.double())
    extra = torch.stack([HITS, torch.ones(4, dtype=torch.float64), OTHER_HITS], 1)
    terms = torch.cat([torch.stack([found, images.double(), to_image.double()], 1), extra])
    mean_found, mean_images, mean_to_image = resampled(terms).unbind(1)
    return (mean_found / mean_images + mean_to_image) / 2


def _digest(text: str) -> int:
    digest = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
