"""Rank correlations over arms, with what a third number explains taken out, and bootstrap intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy
import numpy.typing

Numbers = numpy.typing.NDArray[numpy.float64]

DRAWS = 2000
"""Sets of arms that are drawn with replacement."""
LEAST = 8
"""Fewer arms have no interval."""
ENOUGH = 24
"""Fewer arms are not judged."""


@dataclass(frozen=True, kw_only=True)
class Correlation:
    """A rank correlation.

    Attributes:
        rho: Spearman's.
        low: Lower bound of its 95 % interval.
        high: Upper bound.
        arms: Arms that have all its numbers.
    """

    rho: float
    low: float
    high: float
    arms: int

    def __str__(self) -> str:
        return f"{self.rho:+.2f} ({self.low:+.2f} to {self.high:+.2f})"


def ranks(values: Numbers) -> Numbers:
    """Ranks from 1 along the last axis of values (..., n); equal ones share their mean rank."""
    one, other = values[..., :, None], values[..., None, :]
    shared: Numbers = (other < one).sum(-1) + ((other == one).sum(-1) + 1) / 2
    return shared


def spearman(one: Numbers, other: Numbers) -> Numbers:
    """Spearman's rho (...) of values (..., n) and (..., n); NaN where one of them is constant."""
    x, y = (each - each.mean(-1, keepdims=True) for each in (ranks(one), ranks(other)))
    spread = ((x * x).sum(-1) * (y * y).sum(-1)) ** 0.5
    rho: Numbers = numpy.where(spread > 0, (x * y).sum(-1) / numpy.where(spread > 0, spread, 1), numpy.nan)
    return rho


def partial_spearman(one: Numbers, other: Numbers, given: Numbers) -> Numbers:
    """Spearman's rho with the ranks of `given` taken out of both linearly; NaN where that leaves nothing.

    Source:
        The first-order partial correlation of ranks (Conover 1999, section 5.4).
    """
    r, x, y = spearman(one, other), spearman(one, given), spearman(other, given)
    left = (1 - x * x) * (1 - y * y)
    rho: Numbers = numpy.where(
        left > 1e-12, (r - x * y) / numpy.where(left > 1e-12, left, 1) ** 0.5, numpy.nan
    )
    return rho


def repeatability(values: Numbers, error: float) -> float:
    """Mean Spearman's rho of values (n,) with themselves after normal noise of a standard deviation.

    A number that ordered the values without error would correlate with noisy ones by about as much.
    """
    noise = numpy.random.default_rng(0).normal(0, error, size=(DRAWS, len(values)))
    return float(spearman(numpy.broadcast_to(values, noise.shape), values + noise).mean())


def correlate(one: Numbers, other: Numbers, given: Numbers | None = None) -> Correlation | None:
    """A correlation with the percentile interval of a bootstrap over arms; None of fewer than `LEAST` arms.

    Drawn sets in which a number is constant say nothing and are left out.

    Args:
        one: (n,), NaN for arms without it.
        other: (n,).
        given: What is taken out; None: nothing.
    """
    columns = [one, other] if given is None else [one, other, given]
    rows = numpy.stack(columns, 1)
    rows = rows[numpy.isfinite(rows).all(1)]
    if len(rows) < LEAST:
        return None

    rho = spearman if given is None else partial_spearman
    generator = numpy.random.default_rng(0)
    drawn = rows[generator.integers(len(rows), size=(DRAWS, len(rows)))]
    value, found = float(rho(*rows.T)), rho(*numpy.moveaxis(drawn, 2, 0))
    found = found[numpy.isfinite(found)]
    if not numpy.isfinite(value) or len(found) < DRAWS / 2:
        return None
    low, high = numpy.quantile(found, (0.025, 0.975))
    return Correlation(rho=value, low=float(low), high=float(high), arms=len(rows))
