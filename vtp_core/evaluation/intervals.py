"""Standard errors and intervals of scores, by bootstrap over samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy
import torch
from torch import Tensor

from vtp_core.evaluation.protocol import Baseline, Score
from vtp_core.evaluation.student import widening

DRAWS = 1000
"""Sets of samples that are drawn."""
TAILS = (0.025, 0.975)
"""Quantiles that bound an interval."""
HITS = (1.0, 1.0, 0.0, 0.0)
OTHER_HITS = (1.0, 0.0, 1.0, 0.0)
"""Four further samples, two of them hits: a proportion of 0 or 1 is not certain (Agresti and Coull 1998)."""


def score_of(
    values: Tensor,
    trivial: Mapping[str, Tensor | float] | None = None,
    *,
    also: Mapping[str, float] | None = None,
    notes: Sequence[str] = (),
) -> Score:
    """The mean of a number per sample, compared with trivial answers on the same samples.

    Args:
        values: (n,) bool, whether the answer was right, or (n,) of any floating type.
        trivial: Name of a trivial answer -> its number per sample (n,), or its expected mean.
        also: `Score.also`.
        notes: `Score.notes`.

    Returns:
        The score with errors, paired by sample, and an interval; without them if one sample can't tell them.
    """
    columns = {name: _column(given, len(values)) for name, given in (trivial or {}).items()}
    terms = torch.stack([values.double().cpu(), *columns.values()], 1)
    means = terms.mean(0).tolist()
    if values.dtype == torch.bool:
        extra = [
            terms.new_tensor(OTHER_HITS) if isinstance(given, Tensor) else _column(given, 4)
            for given in (trivial or {}).values()
        ]
        terms = torch.cat([terms, torch.stack([terms.new_tensor(HITS), *extra], 1)])
    elif len(values) < 2:
        alone = {name: Baseline(value=mean) for name, mean in zip(columns, means[1:], strict=True)}
        return Score(value=means[0], baselines=alone, also=also or {}, notes=notes)
    draws = resampled(terms)
    return judged(
        means[0],
        draws[:, 0],
        {
            name: (mean, draws[:, 1 + i])
            for i, (name, mean) in enumerate(zip(columns, means[1:], strict=True))
        },
        also=also,
        notes=notes,
    )


def judged(
    value: float,
    draws: Tensor,
    trivial: Mapping[str, tuple[float, Tensor]],
    *,
    also: Mapping[str, float] | None = None,
    notes: Sequence[str] = (),
) -> Score:
    """A score from its bootstrap draws.

    Args:
        value: The number.
        draws: (r,) float64, the number of each drawn set.
        trivial: Name of a trivial answer -> its number, and (r,) or a scalar those of the same sets.
        also: `Score.also`.
        notes: `Score.notes`.
    """
    low, high = draws.quantile(torch.tensor(TAILS, dtype=draws.dtype)).tolist()
    return Score(
        value=value,
        baselines={
            name: Baseline(value=mean, error=float((draws - drawn).std()))
            for name, (mean, drawn) in trivial.items()
        },
        error=float(draws.std()),
        interval=(min(low, value), max(high, value)),
        also=also or {},
        notes=notes,
    )


def resampled(terms: Tensor, draws: int = DRAWS) -> Tensor:
    """Means over sets of n samples that are drawn with replacement; the same for any order of samples.

    Few samples tell their own spread badly: the draws are widened about the mean to Student's distribution of
    n - 1 degrees of freedom, so that two standard errors mean the same for any n.

    Args:
        terms: (n, k), n >= 2.
        draws: Number of sets.

    Returns:
        (draws, k) float64.
    """
    rows = terms.double().cpu()
    rows = rows[torch.from_numpy(numpy.lexsort(rows.T.numpy()))]
    generator, count = torch.Generator().manual_seed(0), len(rows)
    found = torch.stack(
        [
            torch.bincount(torch.randint(count, (count,), generator=generator), minlength=count).double()
            @ rows
            for _ in range(draws)
        ]
    ).div_(count)
    mean = rows.mean(0)
    bessel = math.sqrt(count / max(count - 1, 1))
    return mean + (found - mean) * bessel * widening(count - 1)


def _column(given: Tensor | float, count: int) -> Tensor:
    if isinstance(given, Tensor):
        return given.double().cpu()
    return torch.full((count,), given, dtype=torch.float64)
