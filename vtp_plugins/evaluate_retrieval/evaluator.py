"""Image-text retrieval by embeddings."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vtp_core.errors import DataError
from vtp_core.evaluation.evaluator import Evaluator, Observation
from vtp_core.evaluation.protocol import Metric, Score
from vtp_core.features import Tally
from vtp_core.tokenizer import Tokenizer
from vtp_plugins.evaluate_retrieval.config import RetrievalConfig
from vtp_plugins.evaluate_retrieval.metric import wrong_before_right
from vtp_plugins.evaluate_retrieval.recall import Queries

_TITLES = {
    "retrieval": "Retrieval",
    "image_to_text": "Retrieval, image to text",
    "text_to_image": "Retrieval, text to image",
}


class Retrieval(Evaluator):
    """Recall@k over the whole held-out set, mean of both directions.

    Image to text: each image is a query for its caption among the distinct captions. Text to image: each
    distinct caption is a query for any of its images. Repeated captions thus count once. The baselines are
    the expected recall of a random ranking and, where captions repeat, that of the most frequent captions as
    the answer to every query.
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
        """`retrieval_r<k>`; with `each_direction` also `image_to_text_r<k>` and `text_to_image_r<k>`."""
        directions = tuple(_TITLES) if self.config.each_direction else ("retrieval",)
        return {
            f"{name}_r{k}": Metric(title=f"{_TITLES[name]}, recall at {k}", digits=3, low=0, high=1)
            for k in self.config.at
            for name in directions
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
        """Recalls, 0 to 1."""
        image, text, caption = (state.rows[name] for name in ("image", "text", "caption"))
        if len(caption.unique()) < 2:
            raise DataError("evaluator retrieval: needs two different held-out captions or more")
        distinct, inverse, counts = caption.unique(return_inverse=True, return_counts=True)
        # Equal captions have equal embeddings; any one of them represents all.
        first = torch.zeros(len(distinct), dtype=torch.int64).scatter_(0, inverse, torch.arange(len(caption)))
        queries = Queries(
            image_caption=inverse,
            images=counts,
            image_rank=wrong_before_right(image, text[first], caption, distinct),
            caption_rank=wrong_before_right(text[first], image, distinct, caption),
        )
        about = {"distinct_captions": len(distinct)}
        scores = {}
        for k in self.config.at:
            found = queries.recalls(k)
            both = {"image_to_text": found.image_to_text, "text_to_image": found.text_to_image}
            scores[f"retrieval_r{k}"] = found.score("both", also={**both, **about})
            if self.config.each_direction:
                scores[f"image_to_text_r{k}"] = found.score("image_to_text", also=about)
                scores[f"text_to_image_r{k}"] = found.score("text_to_image", also=about)
        return scores


def _digest(text: str) -> int:
    digest = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
