"""Protocols of measured numbers, and how numbers are shown. Imports no torch.

Two numbers are comparable only if their protocols are the same text. A protocol's name ends in its version,
which changes with anything that changes a number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

IMAGE_PROTOCOL = "centre-crop-v1"
"""Resize and centre crop of `vtp_core.evaluation.dataset.evaluation_batches`, 8-bit pixels."""


@dataclass(frozen=True, kw_only=True)
class SetFacts:
    """A data set as a protocol names it.

    Attributes:
        name: Name of the source and its settings.
        samples: Number of samples that were read.
        total: Number of samples of the source.
    """

    name: str
    samples: int
    total: int

    def __str__(self) -> str:
        if self.samples == self.total:
            return f"{self.name}, all {self.total}"
        return f"{self.name}, PARTIAL {self.samples} of {self.total}"


@dataclass(frozen=True, kw_only=True)
class GeneratedPass:
    """The generated samples of an evaluation; sample i is a pure function of (seed, i).

    Attributes:
        samples: Number of samples.
        seed: Seed of all of them.
    """

    samples: int
    seed: int = 0

    def __str__(self) -> str:
        return f"{self.samples} generated samples, seed {self.seed}"


@dataclass(frozen=True, kw_only=True)
class EvaluationProtocol:
    """How a number was measured.

    Attributes:
        name: The evaluator's protocol with its version and settings, such as ``knn-v1 k=20 T=0.07``.
        image_size: Side of the images in pixels.
        held_out: The set that was measured on, or None.
        train: The set that a probe was fitted on, or None.
        generated: The samples that were generated, or None.
        weights: ``student`` or ``teacher``.
    """

    name: str
    image_size: int
    held_out: SetFacts | None = None
    train: SetFacts | None = None
    generated: GeneratedPass | None = None
    weights: str = "student"

    def __str__(self) -> str:
        parts = [self.name]
        if self.held_out is not None or self.train is not None:
            parts.append(f"{IMAGE_PROTOCOL} {self.image_size} px")
        else:
            parts.append(f"{self.image_size} px")
        if self.held_out is not None:
            parts.append(f"on {self.held_out}")
        if self.train is not None:
            parts.append(f"fitted on {self.train}")
        if self.generated is not None:
            parts.append(str(self.generated))
        return "; ".join([*parts, f"{self.weights} weights"])


@dataclass(frozen=True, kw_only=True)
class Metric:
    """Title, unit and direction of a metric, as tables and the report show them.

    Attributes:
        title: Its name in words, such as ``Nearest neighbours, top-1``.
        unit: ``dB``, or empty for a fraction, an index or a distance.
        higher_is_better: Direction.
        digits: Decimals to show; None: four significant digits.
        baseline_name: What its baseline is: ``mean colour``, ``raw pixels``, ``chance``.
    """

    title: str
    unit: str = ""
    higher_is_better: bool = True
    digits: int | None = None
    baseline_name: str = ""


@dataclass(frozen=True, kw_only=True)
class Score:
    """A metric's value and what to compare it with.

    Attributes:
        value: The number.
        baseline: Value of a trivial solution under the same protocol, or None.
        also: Further numbers that explain the value, by name.
    """

    value: float
    baseline: float | None = None
    also: Mapping[str, float] = field(default_factory=dict)

    def entry(self, metric: Metric, protocol: EvaluationProtocol) -> dict[str, object]:
        """The entry of ``eval.json``."""
        return {
            "value": self.value,
            "protocol": str(protocol),
            "baseline": self.baseline,
            "baseline_name": metric.baseline_name,
            "title": metric.title,
            "unit": metric.unit,
            "higher_is_better": metric.higher_is_better,
            "digits": metric.digits,
            "also": dict(self.also),
        }
