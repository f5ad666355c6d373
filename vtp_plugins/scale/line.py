"""Least squares of a straight line on points of several training runs, with errors that know the runs.

Points of one training run (its budgets) share their noise. With three runs or more, errors are the
cluster-robust ones of Bell and McCaffrey (2002; CR2), with Satterthwaite's degrees of freedom, as
recommended for few clusters (Imbens and Kolesar, Rev. Econ. Stat. 2016). With fewer, points count as
independent, as `Line.independent` says.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy
from numpy.typing import ArrayLike, NDArray

Array = NDArray[numpy.float64]
LEAST_RUNS = 3
"""Training runs from which errors are cluster-robust."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Values with their variances.

    Attributes:
        value: (m,).
        variance: (m,); NaN if there are too few points.
        freedom: (m,) degrees of freedom of Student's distribution.
    """

    value: Array
    variance: Array
    freedom: Array

    def minus(self, other: Estimate) -> Estimate:
        """The difference to an independent estimate, with Welch's degrees of freedom."""
        total = self.variance + other.variance
        with numpy.errstate(invalid="ignore", divide="ignore"):
            freedom = total**2 / (self.variance**2 / self.freedom + other.variance**2 / other.freedom)
        exact = numpy.maximum(self.freedom, other.freedom)
        return Estimate(
            value=self.value - other.value,
            variance=total,
            freedom=numpy.where(total > 0, freedom, exact),
        )

    def margin(self, level: float = 0.95) -> Array:
        """(m,) half the width of a two-sided interval by Student's distribution."""
        from scipy.stats import t

        return t.ppf((1 + level) / 2, self.freedom) * numpy.sqrt(self.variance)


@dataclass(frozen=True, kw_only=True)
class Line:
    """A fitted line.

    Attributes:
        coefficients: (2,) intercept and slope.
        points: Number of points.
        runs: Number of training runs that they are of.
        residual: Standard deviation of the points about the line, n - 2 degrees of freedom; NaN below three.
        independent: Whether points count as independent.
        shares: (g, 2) what each run (or point) adds to the coefficients' errors.
        products: (g, g, 2, 2) for the degrees of freedom.
    """

    coefficients: Array
    points: int
    runs: int
    residual: float
    independent: bool
    shares: Array
    products: Array

    def at(self, x: ArrayLike) -> Estimate:
        """The line at places (m,)."""
        places = numpy.atleast_1d(numpy.asarray(x, dtype=numpy.float64))
        return self.combine(numpy.stack([numpy.ones_like(places), places], 1))

    def slope(self) -> Estimate:
        """The slope."""
        return self.combine(numpy.array([[0.0, 1.0]]))

    def combine(self, weights: Array) -> Estimate:
        """Linear combinations (m, 2) of intercept and slope."""
        value = weights @ self.coefficients
        if self.points < 3:
            unknown = numpy.full(len(value), numpy.nan)
            return Estimate(value=value, variance=unknown, freedom=unknown)
        variance = ((weights @ self.shares.T) ** 2).sum(1)
        if self.independent:
            freedom = numpy.full(len(value), self.points - 2.0)
        else:
            gram = numpy.einsum("mi,ghij,mj->mgh", weights, self.products, weights)
            trace = numpy.einsum("mgg->m", gram)
            freedom = trace**2 / (gram**2).sum((1, 2))
        return Estimate(value=value, variance=variance, freedom=freedom)


def fit_line(x: ArrayLike, y: ArrayLike, runs: Sequence[Hashable]) -> Line | None:
    """Least squares of ``y = a + b x``.

    Args:
        x: (n,) places.
        y: (n,) values.
        runs: (n,) the training run of each point.

    Returns:
        The line; None if all points are at one place.
    """
    places, values = numpy.asarray(x, numpy.float64), numpy.asarray(y, numpy.float64)
    if len(set(places.tolist())) < 2:
        return None
    design = numpy.stack([numpy.ones_like(places), places], 1)
    inverse: Array = numpy.linalg.inv(design.T @ design).astype(numpy.float64)
    coefficients = inverse @ design.T @ values
    rest: Array = (values - design @ coefficients).astype(numpy.float64)
    count, names = len(values), list(dict.fromkeys(runs))
    residual = float(numpy.sqrt(rest @ rest / (count - 2))) if count > 2 else float("nan")
    independent = len(names) < LEAST_RUNS
    if independent:
        root: Array = numpy.linalg.cholesky(inverse).T.astype(numpy.float64)
        shares, products = root * residual, numpy.zeros((2, 2, 2, 2))
    else:
        shares, products = _by_run(design, inverse, rest, [[name == run for run in runs] for name in names])
    return Line(
        coefficients=coefficients,
        points=count,
        runs=len(names),
        residual=residual,
        independent=independent,
        shares=shares,
        products=products,
    )


def _by_run(design: Array, inverse: Array, rest: Array, groups: list[list[bool]]) -> tuple[Array, Array]:
    """Each run's share of the errors, and the products from which degrees of freedom follow."""
    outside = numpy.eye(len(rest)) - design @ inverse @ design.T
    shares, spread = [], []
    for group in groups:
        mine = numpy.flatnonzero(group)
        values, vectors = numpy.linalg.eigh(outside[numpy.ix_(mine, mine)])
        known = values > 1e-10
        adjust = (vectors[:, known] / numpy.sqrt(values[known])) @ vectors[:, known].T
        weights = inverse @ design[mine].T @ adjust
        shares.append(weights @ rest[mine])
        spread.append(outside[:, mine] @ weights.T)
    stacked = numpy.stack(spread)
    return numpy.stack(shares), numpy.einsum("gni,hnj->ghij", stacked, stacked)
