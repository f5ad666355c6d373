"""Linear classification on frozen features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vtp_core.evaluation.evaluator import Evaluator, Observation
from vtp_core.evaluation.protocol import Metric, Score
from vtp_core.features import Tally
from vtp_core.tokenizer import Tokenizer
from vtp_plugins.evaluate_linear_probe.config import LinearProbeConfig
from vtp_plugins.evaluate_linear_probe.metric import probe
from vtp_plugins.probes.answers import empty_classes, splits_of, top_1
from vtp_plugins.probes.vectors import VectorStore, read_vectors

NAMES = {
    "latent": "probe-latent-mean-v1",
    "latent_map": "probe-latent-grid-v1",
    "last_layer": "probe-last-layer-v1",
}
"""Features -> name of the protocol. The VTP paper (section 4.1) probes the bottleneck, its author says the
last layer; hence a protocol for each reading."""


class LinearProbe(Evaluator):
    """Top-1 accuracy of a logistic regression on frozen features.

    Compared with the same classifier on raw pixels, averaged to at most 32 x 32, and with the largest class.
    """

    requires = frozenset({"encode"})
    fields = frozenset({"label"})
    uses_train = True
    metrics = {"linear_probe": Metric(title="Linear probe, top-1", digits=3, low=0, high=1)}
    config: LinearProbeConfig

    def __init__(self, config: LinearProbeConfig) -> None:
        super().__init__(config)
        self._store = VectorStore()
        self._classes: Sequence[str] = ()

    @property
    def protocol(self) -> str:
        """Name, version and settings."""
        strengths = "/".join(f"{strength:g}" for strength in self.config.strengths)
        name = NAMES.get(self.config.features, "linear-probe-v2")
        return (
            f"{name} ({self.config.features}, logistic regression by float64 L-BFGS, L2 of {strengths} "
            "chosen on a fifth of the training set by hash, no augmentation)"
        )

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
        """`linear_probe`: accuracy, 0 to 1."""
        train, held_out = (split.sorted() for split in splits_of("linear_probe", state))
        strengths = self.config.strengths
        fitted = {
            "features": probe(train.features, train.label, held_out.features, strengths),
            "pixels": probe(train.pixels, train.label, held_out.pixels, strengths),
        }
        ends = [
            f"the penalty selected for the {name}, {found.strength:g}, is the {found.edge} one tried; "
            "one beyond it may be better: extend `strengths`"
            for name, found in fitted.items()
            if found.edge is not None
        ]
        score = top_1(
            fitted["features"].predicted,
            held_out.label,
            {"raw pixels": fitted["pixels"].predicted},
            also={"strength": fitted["features"].strength, "raw_pixels_strength": fitted["pixels"].strength},
            notes=[*empty_classes(held_out.label, self._classes, train.label), *ends],
        )
        return {"linear_probe": score}
