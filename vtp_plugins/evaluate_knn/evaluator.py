"""Nearest-neighbour classification on frozen features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vtp_core.evaluation.evaluator import Evaluator, Observation
from vtp_core.evaluation.protocol import Metric, Score
from vtp_core.features import Tally
from vtp_core.tokenizer import Tokenizer
from vtp_plugins.evaluate_knn.config import KnnConfig
from vtp_plugins.evaluate_knn.metric import knn_predict
from vtp_plugins.probes.answers import empty_classes, splits_of, top_1
from vtp_plugins.probes.vectors import VectorStore, read_vectors


class Knn(Evaluator):
    """Top-1 accuracy of a weighted vote among the nearest training images.

    Compared with the same vote on raw pixels, averaged to at most 32 x 32, and with the largest class.
    """

    requires = frozenset({"encode"})
    fields = frozenset({"label"})
    uses_train = True
    metrics = {"knn": Metric(title="Nearest neighbours, top-1", digits=3, low=0, high=1)}
    config: KnnConfig

    def __init__(self, config: KnnConfig) -> None:
        super().__init__(config)
        self._store = VectorStore()
        self._classes: Sequence[str] = ()

    @property
    def protocol(self) -> str:
        """Name, version and settings."""
        config = self.config
        settings = f"k={config.neighbors}, temperature={config.temperature:g}"
        return f"knn-v1 ({config.features}, centred cosine, {settings})"

    def begin(self, model: Tokenizer, classes: Sequence[str]) -> None:
        """Clears the collected vectors."""
        self._store = VectorStore()
        self._classes = classes

    def update(self, seen: Observation) -> None:
        """Adds a batch of either set."""
        self._store.add(seen, read_vectors(seen, self.config.features))

    def state(self) -> Tally:
        """Vectors and labels."""
        return self._store.tally()

    def compute(self, state: Tally) -> Mapping[str, Score]:
        """`knn`: accuracy, 0 to 1."""
        config = self.config
        train, held_out = (split.sorted() for split in splits_of("knn", state))
        predicted, from_pixels = (
            knn_predict(
                known,
                train.label,
                rows,
                neighbors=config.neighbors,
                temperature=config.temperature,
            )
            for known, rows in ((train.features, held_out.features), (train.pixels, held_out.pixels))
        )
        notes = empty_classes(held_out.label, self._classes, train.label)
        return {"knn": top_1(predicted, held_out.label, {"raw pixels": from_pixels}, notes=notes)}
