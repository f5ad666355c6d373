"""Values that depend on the step: learning rates, weights, momenta, temperatures. Imports no torch."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator


class _Schedule(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    warmup: Annotated[int, Field(ge=0)] = 0
    """Steps of linear rise from `warmup_from` to the schedule's first value, reached at the last of them."""
    warmup_from: float = 0.0
    """Start of the warm-up, one step before step 0."""

    def _after_warmup(self, index: int, steps: int) -> float:
        raise NotImplementedError

    def at(self, index: int, total: int) -> float:
        """Value at step `index` (0-based) of a run of `total` steps."""
        steps = max((getattr(self, "steps", None) or total) - self.warmup, 1)
        if index < self.warmup:
            first = self._after_warmup(0, steps)
            # As in open_clip: step 0 is above `warmup_from`, the last warm-up step at the full value.
            return self.warmup_from + (first - self.warmup_from) * ((index + 1) / self.warmup)
        return self._after_warmup(index - self.warmup, steps)

    def final(self, total: int) -> float:
        """Last value in a run of `total` steps."""
        return self.at(max(total, getattr(self, "steps", None) or 0), total)


class Constant(_Schedule):
    """The same value at every step after the warm-up."""

    kind: Literal["constant"] = "constant"
    """Names this schedule."""
    value: float
    """The value."""

    def _after_warmup(self, index: int, steps: int) -> float:
        return self.value


class Linear(_Schedule):
    """A straight line from `start` to `end` over `steps` (default: the run), then `end`."""

    kind: Literal["linear"] = "linear"
    """Names this schedule."""
    start: float
    """First value after the warm-up."""
    end: float
    """Value from step `steps` on."""
    steps: Annotated[int, Field(gt=0)] | None = None
    """Step at which `end` is reached, warm-up included; default: the end of the run."""

    def _after_warmup(self, index: int, steps: int) -> float:
        return self.start + (self.end - self.start) * min(index / steps, 1.0)


class Cosine(_Schedule):
    """Half a cosine from `start` to `end` over `steps` (default: the run), then `end`."""

    kind: Literal["cosine"] = "cosine"
    """Names this schedule."""
    start: float
    """First value after the warm-up."""
    end: float = 0.0
    """Value from step `steps` on."""
    steps: Annotated[int, Field(gt=0)] | None = None
    """Step at which `end` is reached, warm-up included; default: the end of the run."""

    def _after_warmup(self, index: int, steps: int) -> float:
        phase = min(index / steps, 1.0)
        return self.end + (self.start - self.end) * 0.5 * (1 + math.cos(math.pi * phase))


class StepSchedule(_Schedule):
    """`values[i]` until step `at_steps[i]`, the last value from then on."""

    kind: Literal["step"] = "step"
    """Names this schedule."""
    values: Annotated[tuple[float, ...], Field(min_length=1)]
    """One value more than there are boundaries."""
    at_steps: tuple[int, ...] = ()
    """Steps of the run, warm-up included, at which the next value begins."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.values) != len(self.at_steps) + 1:
            raise ValueError(f"{len(self.values)} values need {len(self.values) - 1} at_steps")
        if list(self.at_steps) != sorted(set(self.at_steps)):
            raise ValueError("at_steps must rise")
        return self

    def _after_warmup(self, index: int, steps: int) -> float:
        passed = sum(index + self.warmup >= boundary for boundary in self.at_steps)
        return self.values[passed]


class WarmupStableDecay(_Schedule):
    """`value` after the warm-up, then a straight line to `end` over the run's last `decay` steps.

    A run that ends earlier has the same values before its decay, so it may branch off a longer one.
    Source: MiniCPM (Hu et al., arXiv 2404.06395); for scaling laws Hägele et al. (arXiv 2405.18392).
    """

    kind: Literal["wsd"] = "wsd"
    """Names this schedule."""
    value: float
    """The value between warm-up and decay."""
    decay: Annotated[int, Field(gt=0)]
    """Steps of the decay, the last of the run; `end` would be reached one step after it."""
    end: float = 0.0
    """Where the decay leads."""

    def _after_warmup(self, index: int, steps: int) -> float:
        left = min(max((steps - index) / self.decay, 0.0), 1.0)
        return self.end + (self.value - self.end) * left


Schedule = Annotated[
    Constant | Linear | Cosine | StepSchedule | WarmupStableDecay, Field(discriminator="kind")
]


def _which(value: Any) -> str:
    """Branch of `Scheduled` for a value, so that errors are reported for that branch alone."""
    return "schedule" if isinstance(value, dict | _Schedule) else "number"


Scheduled = Annotated[
    Annotated[float, Tag("number")] | Annotated[Schedule, Tag("schedule")], Discriminator(_which)
]
"""A recipe value that is a number or a schedule table such as ``{ kind = "cosine", start = 1e-3 }``."""


def between(low: float, high: float = math.inf) -> AfterValidator:
    """Refuses a number or schedule that leaves [low, high] or is not finite."""

    def check(scheduled: Scheduled) -> Scheduled:
        for value in _extremes(scheduled):
            if not (math.isfinite(value) and low <= value <= high):
                bounds = f"at least {low:g}" if math.isinf(high) else f"from {low:g} to {high:g}"
                raise ValueError(f"must be finite and {bounds}, got {value:g}")
        return scheduled

    return AfterValidator(check)


def _extremes(scheduled: Scheduled) -> tuple[float, ...]:
    """Values whose range contains all values of the schedule."""
    match scheduled:
        case Constant():
            values: tuple[float, ...] = (scheduled.value,)
        case Linear() | Cosine():
            values = (scheduled.start, scheduled.end)
        case StepSchedule():
            values = scheduled.values
        case WarmupStableDecay():
            values = (scheduled.value, scheduled.end)
        case _:
            return (float(scheduled),)
    return (*values, scheduled.warmup_from) if scheduled.warmup else values


NotNegative = Annotated[Scheduled, between(0)]
"""A number or schedule of finite values of at least 0."""
Fraction = Annotated[Scheduled, between(0, 1)]
"""A number or schedule of values from 0 to 1."""


def value_at(scheduled: Scheduled, index: int, total: int) -> float:
    """Value of a number or schedule at step `index` of `total`."""
    return float(scheduled) if isinstance(scheduled, int | float) else scheduled.at(index, total)
