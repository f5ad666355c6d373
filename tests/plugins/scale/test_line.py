"""Least squares against scipy, and errors by run against their definitions."""

from __future__ import annotations

import numpy
import pytest
import scipy.linalg
from scipy import stats

from tests.agreement import Agreement
from vtp_plugins.scale.line import Array, Line, fit_line


def drawn(seed: int = 0) -> tuple[Array, Array, list[str]]:
    generator = numpy.random.default_rng(seed)
    runs = [name for name in "abcd" for _ in range(3)]
    shift = dict(zip("abcd", generator.normal(size=4), strict=True))
    x = generator.uniform(0, 5, len(runs))
    y = 1 + 0.5 * x + numpy.array([shift[run] for run in runs]) + 0.1 * generator.normal(size=len(runs))
    return x, y, runs


def fitted(x: Array, y: Array, runs: list[str]) -> Line:
    line = fit_line(x, y, runs)
    assert line is not None
    return line


@pytest.mark.agrees("line of `vtp scale`: coefficients, errors, margins", "scipy", 1e-10)
def test_points_of_one_run_give_the_errors_of_scipy(agreement: Agreement) -> None:
    x, y, _ = drawn()
    line, theirs = fitted(x, y, ["a"] * len(x)), stats.linregress(x, y)
    assert line.independent and line.runs == 1
    agreement(line.coefficients, [theirs.intercept, theirs.slope])
    slope = line.slope()
    agreement(slope.variance[0] ** 0.5, theirs.stderr)
    agreement(slope.margin()[0], theirs.stderr * stats.t.ppf(0.975, len(x) - 2))
    at_zero = line.at(0.0)
    agreement(at_zero.variance[0] ** 0.5, theirs.intercept_stderr)


def test_errors_by_run_are_those_of_the_definition() -> None:
    """Bell and McCaffrey's CR2 and their degrees of freedom, written out with matrices of all points."""
    x, y, runs = drawn()
    line = fitted(x, y, runs)
    design = numpy.stack([numpy.ones_like(x), x], 1)
    bread = numpy.linalg.inv(design.T @ design)
    hat = design @ bread @ design.T
    rest = y - hat @ y
    weights = numpy.array([0.3, 1.7])
    meat, vectors = numpy.zeros((2, 2)), []
    for name in "abcd":
        mine = numpy.array([run == name for run in runs])
        inside = numpy.eye(mine.sum()) - hat[numpy.ix_(mine, mine)]
        adjust = numpy.linalg.inv(scipy.linalg.sqrtm(inside).real)
        score = design[mine].T @ adjust @ rest[mine]
        meat += numpy.outer(score, score)
        vectors.append((numpy.eye(len(x)) - hat)[:, mine] @ adjust @ design[mine] @ bread @ weights)
    found = line.combine(weights[None])
    assert not line.independent
    assert found.variance[0] == pytest.approx(weights @ bread @ meat @ bread @ weights, rel=1e-9)
    eigenvalues = numpy.linalg.eigvalsh(numpy.stack(vectors) @ numpy.stack(vectors).T)
    assert found.freedom[0] == pytest.approx(eigenvalues.sum() ** 2 / (eigenvalues**2).sum(), rel=1e-9)


def test_a_difference_has_the_degrees_of_freedom_of_welch() -> None:
    first, second = (fitted(*drawn(seed)) for seed in (0, 1))
    a, b = first.at(2.0), second.at(2.0)
    found = a.minus(b)
    total = a.variance + b.variance
    expected = total**2 / (a.variance**2 / a.freedom + b.variance**2 / b.freedom)
    assert found.variance == pytest.approx(total) and found.freedom == pytest.approx(expected)


def test_two_points_have_a_line_without_errors_and_one_place_has_none() -> None:
    line = fitted(numpy.array([1.0, 2.0]), numpy.array([3.0, 5.0]), ["a", "b"])
    assert line.coefficients == pytest.approx([1, 2]) and numpy.isnan(line.slope().margin()[0])
    assert fit_line([1.0, 1.0], [2.0, 3.0], ["a", "b"]) is None
