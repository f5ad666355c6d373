"""What a number means: the protocol that goes with it. Imports no torch.

Two numbers may be compared only if their protocols are the same text. A protocol's name ends in its version;
change the version with anything that changes a number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

IMAGE_PROTOCOL = "centre-crop-v1"
"""Resize and centre crop of `vtp_core.evaluation.dataset.evaluation_batches`, 8-bit pixels."""


@dataclass(frozen=True, kw_only=True)
class SetFacts:
    """What an evaluation saw of a data set.

    Attributes:
        name: Name of the source and its settings.
        samples: Samples that were read.
        total: Samples that the source has.
    """

    name: str
    samples: int
    total: int

    def __str__(self) -> str:
        if self.samples == self.total:
            return f"{self.name}, all {self.total}"
        return f"{self.name}, PARTIAL {self.samples} of {self.total}"


@dataclass(frozen=True, kw_only=True)
class EvaluationProtocol:
    """How a number was measured.

    Attributes:
        name: The evaluator's protocol with its version and settings, such as ``knn-v1 k=20 T=0.07``.
        image_size: Side in pixels of the images.
        held_out: The set that was measured on.
        train: The set that a probe was fitted on, or None.
        weights: Weights that were measured, ``student`` or ``teacher``.
    """

    name: str
    image_size: int
    held_out: SetFacts
    train: SetFacts | None = None
    weights: str = "student"

    def __str__(self) -> str:
        parts = [self.name, f"{IMAGE_PROTOCOL} {self.image_size} px", f"on {self.held_out}"]
        if self.train is not None:
            parts.append(f"fitted on {self.train}")
        return "; ".join([*parts, f"{self.weights} weights"])


@dataclass(frozen=True, kw_only=True)
class Score:
    """One number with what it is to be compared with.

    Attributes:
        value: The number.
        baseline: What something trivial reaches under the same protocol, or None.
        baseline_name: What that is: ``mean colour``, ``raw pixels``, ``chance``.
        unit: ``dB``, or empty for a share or an index.
        higher_is_better: Direction.
        also: Further numbers that explain the value, by name.
    """

    value: float
    baseline: float | None = None
    baseline_name: str = ""
    unit: str = ""
    higher_is_better: bool = True
    also: Mapping[str, float] = field(default_factory=dict)

    def entry(self, protocol: EvaluationProtocol) -> dict[str, object]:
        """The score as ``eval.json`` holds it: value first."""
        return {
            "value": self.value,
            "protocol": str(protocol),
            "baseline": self.baseline,
            "baseline_name": self.baseline_name,
            "unit": self.unit,
            "higher_is_better": self.higher_is_better,
            "also": dict(self.also),
        }
