"""Protocols of measured numbers, and how numbers are shown. Imports no torch.

Two numbers are comparable only if their protocols are the same text. A protocol's name ends in its version,
which changes with anything that changes a number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from vtp_core.evaluation.named_protocol import CROPS, NamedProtocol, Preparation
from vtp_core.evaluation.sampling import Sampling, sampling_mark, sampling_text
from vtp_core.view import Size, size_text

IMAGE_PROTOCOL = CROPS["adm"]
"""Resize and centre crop of `vtp_core.evaluation.sets.dataset.evaluation_batches`, 8-bit pixels."""


@dataclass(frozen=True, kw_only=True)
class SetFacts:
    """A data set as a protocol names it.

    Attributes:
        name: Name of the source and its settings.
        samples: Number of samples that were read.
        total: Number of samples of the source that can be read.
        lost: Number of parts of the source, such as shards, that can't be read.
    """

    name: str
    samples: int
    total: int
    lost: int = 0

    def __str__(self) -> str:
        if self.samples == self.total and not self.lost:
            return f"{self.name}, all {self.total}"
        text = f"{self.name}, PARTIAL {self.samples} of {self.total}"
        return f"{text} that can be read ({self.lost} parts of the set can't)" if self.lost else text


@dataclass(frozen=True, kw_only=True)
class GeneratedPass:
    """The generated samples of an evaluation; sample i is a pure function of (seed, i).

    Attributes:
        samples: Number of samples.
        seed: Seed of all of them.
        settings: Changes of the generator's settings, such as ``{"steps": 50}``.
    """

    samples: int
    seed: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __str__(self) -> str:
        return f"{self.samples} generated samples, seed {self.seed}"


@dataclass(frozen=True, kw_only=True)
class EvaluationProtocol:
    """How a number was measured.

    Attributes:
        name: The evaluator's protocol with its version and settings, such as ``knn-v1 k=20 T=0.07``.
        image_size: Side of the images in pixels, or height and width.
        held_out: The set that was measured on, or None.
        train: The set that a probe was fitted on, or None.
        classes: How its labels were matched with those of the held-out set; empty if both have one numbering.
        generated: The samples that were generated, or None.
        sampling: The generator's settings that acted on them; None: it states none.
        weights: ``student`` or ``teacher``.
        held_out_role: What the held-out set is for.
        train_role: What the training set is for.
        named: The named protocol that fixes the settings, or None.
        preparation: Crop, rounding and precision.
    """

    name: str
    image_size: Size
    held_out: SetFacts | None = None
    train: SetFacts | None = None
    classes: str = ""
    generated: GeneratedPass | None = None
    sampling: Sampling | None = None
    weights: str = "student"
    held_out_role: str = "on"
    train_role: str = "fitted on"
    named: NamedProtocol | None = None
    preparation: Preparation = field(default_factory=Preparation)

    @property
    def label(self) -> str:
        """Name of the named protocol, marked if images or samples are others than it asks for; else empty."""
        if self.named is None:
            return ""
        fitted = self.train.samples if self.train is not None else None
        if self.generated is not None:
            mark = sampling_mark(self.named.sampling, self.sampling)
            return self.named.label(self.generated.samples, fitted) + mark
        measured = self.held_out or SetFacts(name="", samples=0, total=0)
        lost = measured.lost + (self.train.lost if self.train is not None else 0)
        return self.named.label(measured.samples, fitted, of=measured.total, lost=lost)

    def __str__(self) -> str:
        parts = [f"{self.label}: {self.name}" if self.named is not None else self.name]
        if self.held_out is not None or self.train is not None:
            parts.append(f"{self.preparation} {size_text(self.preparation.size or self.image_size)} px")
        else:
            parts.append(f"{size_text(self.image_size)} px")
        if self.held_out is not None:
            parts.append(f"{self.held_out_role} {self.held_out}")
        if self.train is not None:
            parts.append(f"{self.train_role} {self.train}")
        if self.classes:
            parts.append(self.classes)
        if self.generated is not None:
            parts.append(f"{self.generated}, {sampling_text(self.sampling)}")
        return "; ".join([*parts, f"{self.weights} weights"])


Verdict = Literal["better", "within noise", "worse"]
"""A value beside its strongest trivial answer; "within noise" is within two standard errors."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """Title, unit and direction of a metric, as tables and the report show them.

    Attributes:
        title: Its name in words, such as ``Nearest neighbours, top-1``.
        unit: ``dB``, or empty for a fraction, an index or a distance.
        higher_is_better: Direction.
        digits: Decimals to show; None: four significant digits.
        baseline_name: What `Score.baseline` is, for metrics with one trivial answer: ``mean colour``.
        beside: Names of numbers in `Score.also` without which the value can't be read; tables, leaderboards,
            reports and model cards show them.
        low: Least value that it can have, where an interval ends; None: any.
        high: Largest value that it can have.
    """

    title: str
    unit: str = ""
    higher_is_better: bool = True
    digits: int | None = None
    baseline_name: str = ""
    beside: Sequence[str] = ()
    low: float | None = None
    high: float | None = None

    def within(self, interval: tuple[float, float], value: float) -> tuple[float, float]:
        """The part of an interval that lies in the range; the true value does too, so it is covered as often.

        Args:
            interval: Two finite bounds.
            value: The measured number, which rounding may put outside of the range; it stays inside.
        """
        low, high = interval
        if self.low is not None:
            low = max(low, min(self.low, value))
        if self.high is not None:
            high = min(high, max(self.high, value))
        return low, high


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """Value of a trivial answer under the same protocol.

    Attributes:
        value: The number.
        error: Standard error of the score's value minus this one, paired by sample; None: unknown.
    """

    value: float
    error: float | None = None


@dataclass(frozen=True, kw_only=True)
class Score:
    """A metric's value, how sure it is, and what to compare it with.

    `vtp_core.evaluation.intervals.score_of` makes one of a number per sample.

    Attributes:
        value: The number.
        baseline: Value of the trivial answer that `Metric.baseline_name` names, judged by `error`; or None.
        baselines: Trivial answers by name; the value is compared with the strongest.
        error: Standard error of the value over samples, or None.
        interval: Two bounds of the value; None: two standard errors to each side. Shown within the metric's
            range.
        also: Further numbers that explain the value, by name.
        notes: Sentences that a reader of the number should know.
    """

    value: float
    baseline: float | None = None
    baselines: Mapping[str, Baseline] = field(default_factory=dict)
    error: float | None = None
    interval: tuple[float, float] | None = None
    also: Mapping[str, float] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def bounds(self) -> tuple[float, float] | None:
        """`interval`, else two standard errors to each side; None where they are unknown or not finite."""
        found = self.interval
        if found is None and self.error is not None:
            found = (self.value - 2 * self.error, self.value + 2 * self.error)
        return found if found is not None and all(map(math.isfinite, found)) else None

    def entry(self, metric: Metric, protocol: EvaluationProtocol) -> dict[str, object]:
        """The entry of ``eval.json``."""
        given = dict(self.baselines)
        if self.baseline is not None:
            given[metric.baseline_name] = Baseline(value=self.baseline, error=self.error)
        given = {name: trivial for name, trivial in given.items() if math.isfinite(trivial.value)}
        sign = 1 if metric.higher_is_better else -1
        best = max(given, key=lambda name: sign * given[name].value, default=None)
        # JSON has no NaN: what could not be computed is null.
        error = self.error if self.error is not None and math.isfinite(self.error) else None
        bounds = self.bounds
        named = protocol.named
        return {
            "value": self.value,
            "protocol": str(protocol),
            "baseline": None if best is None else given[best].value,
            "baseline_name": metric.baseline_name if best is None else best,
            "baselines": {name: trivial.value for name, trivial in given.items()},
            "verdict": None if best is None else verdict(sign * self.value, sign, given[best]),
            "error": error,
            "interval": None if bounds is None else list(metric.within(bounds, self.value)),
            "title": metric.title if named is None else f"{metric.title} ({protocol.label})",
            "unit": metric.unit,
            "higher_is_better": metric.higher_is_better,
            "digits": metric.digits,
            "also": {name: value for name, value in self.also.items() if math.isfinite(value)},
            "beside": [name for name in metric.beside if math.isfinite(self.also.get(name, math.nan))],
            "notes": [*self.notes, *(named.notes() if named is not None else ())],
        }


def shown(value: float, entry: Mapping[str, Any]) -> str:
    """A number with the decimals and the unit of its entry in ``eval.json``."""
    number = f"{value:.4g}" if entry["digits"] is None else f"{value:.{entry['digits']}f}"
    return f"{number} {entry['unit']}".rstrip()


def shown_beside(entry: Mapping[str, Any]) -> str:
    """The numbers without which that of an entry can't be read; empty if there are none.

    Entries of earlier versions name none.
    """
    return ", ".join(f"{name} {entry['also'][name]:.4g}" for name in entry.get("beside", ()))


def verdict(signed_value: float, sign: int, trivial: Baseline) -> Verdict | None:
    """The state of a value beside a trivial answer; None if the error of the difference is unknown.

    Args:
        signed_value: The value times `sign`.
        sign: 1 if higher is better, else -1.
        trivial: The answer to compare with.
    """
    if trivial.error is None or not math.isfinite(trivial.error):
        return None
    gain = signed_value - sign * trivial.value
    if abs(gain) <= 2 * trivial.error:
        return "within noise"
    return "better" if gain > 0 else "worse"
