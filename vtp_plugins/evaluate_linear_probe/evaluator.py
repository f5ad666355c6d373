"""Linear classification on frozen features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from vtp_core.errors import DataError
from vtp_core.evaluation.evaluator import Evaluator, Observation
from vtp_core.evaluation.protocol import Metric, Score
from vtp_core.features import Tally
from vtp_core.tokenizer import Tokenizer
from vtp_plugins.evaluate_linear_probe.config import LinearProbeConfig
from vtp_plugins.evaluate_linear_probe.metric import probe
from vtp_plugins.probes.vectors import VectorStore, top_1


class LinearProbe(Evaluator):
    """Top-1 accuracy of a logistic regression on frozen features.

    Compared with the same classifier on raw pixels, averaged to at most 32 x 32, and with the largest class.
    """

    requires = frozenset({"encode"})
    fields = frozenset({"label"})
    uses_train = True
    metrics = {"linear_probe": Metric(title="Linear probe, top-1", digits=3)}
    config: LinearProbeConfig

    def __init__(self, config: LinearProbeConfig) -> None:
        super().__init__(config)
        self._store = VectorStore()

    @property
    def protocol(self) -> str:
        """Name, version and settings."""
        strengths = "/".join(f"{strength:g}" for strength in self.config.strengths)
        return (
            f"linear-probe-v1 ({self.config.features}, logistic regression by float64 L-BFGS, L2 of "
            f"{strengths} chosen on a fifth of the training set, no augmentation)"
        )

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
        """`linear_probe`: accuracy, 0 to 1."""
        train_label, label = state.rows["train.label"], state.rows["held_out.label"]
        if len(train_label.unique()) < 2 or not len(label):
            raise DataError("evaluator linear_probe: needs labels of two classes or more in both sets")
        # Ordered by the features, so that the split depends on neither ranks nor labels.
        order = torch.argsort(state.rows["train.features"].double().sum(1), stable=True)
        order = order[torch.randperm(len(order), generator=torch.Generator().manual_seed(0))]
        predicted, strength = probe(
            state.rows["train.features"][order],
            train_label[order],
            state.rows["held_out.features"],
            self.config.strengths,
        )
        from_pixels, _ = probe(
            state.rows["train.pixels"][order],
            train_label[order],
            state.rows["held_out.pixels"],
            self.config.strengths,
        )
        score = top_1(predicted, label, {"raw pixels": from_pixels}, also={"strength": strength})
        return {"linear_probe": score}
