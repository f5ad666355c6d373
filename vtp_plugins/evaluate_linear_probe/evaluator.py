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
            f"linear-probe-v2 ({self.config.features}, logistic regression by float64 L-BFGS, L2 of "
            f"{strengths} chosen on a fifth of the training set by hash, no augmentation)"
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
        order = torch.argsort(state.rows["train.order"], stable=True)
        fitted = {
            name: probe(
                state.rows[f"train.{name}"][order],
                train_label[order],
                state.rows[f"held_out.{name}"],
                self.config.strengths,
            )
            for name in ("features", "pixels")
        }
        score = top_1(
            fitted["features"].predicted,
            label,
            {"raw pixels": fitted["pixels"].predicted},
            also={"strength": fitted["features"].strength, "raw_pixels_strength": fitted["pixels"].strength},
            notes=[
                f"the penalty selected for the {name}, {found.strength:g}, is the {found.edge} one tried; "
                "one beyond it may be better: extend `strengths`"
                for name, found in fitted.items()
                if found.edge is not None
            ],
        )
        return {"linear_probe": score}
