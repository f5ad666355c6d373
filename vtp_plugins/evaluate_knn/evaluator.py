"""Nearest-neighbour classification on frozen features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vtp_core.errors import DataError
from vtp_core.evaluation.evaluator import Evaluator, Observation
from vtp_core.evaluation.protocol import Metric, Score
from vtp_core.features import Tally
from vtp_core.tokenizer import Tokenizer
from vtp_plugins.evaluate_knn.config import KnnConfig
from vtp_plugins.evaluate_knn.metric import knn_predict
from vtp_plugins.probes.vectors import VectorStore, top_1


class Knn(Evaluator):
    """Top-1 accuracy of a weighted vote among the nearest training images.

    Compared with the same vote on raw pixels, averaged to at most 32 x 32, and with the largest class.
    """

    requires = frozenset({"encode"})
    fields = frozenset({"label"})
    uses_train = True
    metrics = {"knn": Metric(title="Nearest neighbours, top-1", digits=3)}
    config: KnnConfig

    def __init__(self, config: KnnConfig) -> None:
        super().__init__(config)
        self._store = VectorStore()

    @property
    def protocol(self) -> str:
        """Name, version and settings."""
        config = self.config
        settings = f"k={config.neighbors}, temperature={config.temperature:g}"
        return f"knn-v1 ({config.features}, centred cosine, {settings})"

    def begin(self, model: Tokenizer, classes: Sequence[str]) -> None:
        """Clears the collected vectors."""
        self._store = VectorStore()

    def update(self, seen: Observation) -> None:
        """Adds a batch of either set."""
        self._store.add(seen, self.config.features)

    def state(self) -> Tally:
        """Vectors and labels."""
        return self._store.tally()

    def compute(self, state: Tally) -> Mapping[str, Score]:
        """`knn`: accuracy, 0 to 1."""
        rows, config = state.rows, self.config
        label = rows["held_out.label"]
        if not len(rows["train.label"]) or not len(label):
            raise DataError("evaluator knn: needs labels in both sets")
        predicted, from_pixels = (
            knn_predict(
                rows[f"train.{name}"],
                rows["train.label"],
                rows[f"held_out.{name}"],
                neighbors=config.neighbors,
                temperature=config.temperature,
            )
            for name in ("features", "pixels")
        )
        return {"knn": top_1(predicted, label, {"raw pixels": from_pixels})}
