"""Sinkhorn-Knopp targets against the plain algorithm in numpy; marginals, ranks, degenerate input."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from vtp_core.testing import FakeStep
from vtp_core.testing.ranks import run_ranks
from vtp_core.training.ranks.world import World
from vtp_plugins.dino.distillation import log_sum
from vtp_plugins.dino.sinkhorn import sinkhorn


def _unit(rows: int, width: int, seed: int) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, width, generator=rng, dtype=torch.float64), dim=1)


def _targets(
    teacher: Tensor, prototypes: Tensor, temperature: float, *, alone: bool = True, **options: Any
) -> Tensor:
    step = FakeStep({}, world=World())
    log = None if alone else lambda x: log_sum(step, x)
    found = sinkhorn(teacher, prototypes, temperature, log, **options)
    scores = teacher @ prototypes.T / temperature + found.offset
    if found.normalizer is not None:
        torch.testing.assert_close(found.normalizer, scores.logsumexp(1), rtol=1e-5, atol=1e-5)
    return scores.softmax(1)


def _plain(scores: numpy.ndarray, iterations: int = 3) -> numpy.ndarray:
    """The algorithm as published: a matrix whose rows and columns are scaled in turn."""
    matrix = numpy.exp(scores - scores.max()).T
    matrix /= matrix.sum()
    prototypes, rows = matrix.shape
    for _ in range(iterations):
        matrix /= matrix.sum(1, keepdims=True) * prototypes
        matrix /= matrix.sum(0, keepdims=True) * rows
    return (matrix * rows).T


@given(
    rows=st.integers(1, 12),
    prototypes=st.integers(1, 10),
    iterations=st.integers(1, 5),
    temperature=st.floats(0.04, 1),
    elements=st.integers(1, 200),
    alone=st.booleans(),
)
def test_against_the_plain_algorithm(
    rows: int, prototypes: int, iterations: int, temperature: float, elements: int, alone: bool
) -> None:
    teacher, others = _unit(rows, 4, 1), _unit(prototypes, 4, 2) * 1.5
    expected = _plain((teacher @ others.T / temperature).numpy(), iterations)
    found = _targets(
        teacher,
        others,
        temperature,
        alone=alone,
        iterations=iterations,
        elements=elements,
        dtype=torch.float64,
    )
    numpy.testing.assert_allclose(found.numpy(), expected, rtol=1e-9, atol=1e-14)


@given(rows=st.integers(2, 24), prototypes=st.integers(2, 12), seed=st.integers(0, 99))
def test_marginals(rows: int, prototypes: int, seed: int) -> None:
    teacher, others = _unit(rows, 6, seed), _unit(prototypes, 6, seed + 100)
    found = _targets(teacher, others, 0.5, iterations=60, dtype=torch.float64)
    torch.testing.assert_close(found.sum(1), torch.ones(rows).double())
    share = torch.full((prototypes,), rows / prototypes, dtype=torch.float64)
    torch.testing.assert_close(found.sum(0), share, rtol=1e-3, atol=0)


@pytest.mark.parametrize("counts", [(5, 2, 1), (0, 6, 2), (8, 0, 0)])
def test_ranks_with_different_numbers_of_rows_agree_with_one(counts: tuple[int, ...]) -> None:
    teacher, others = _unit(sum(counts), 5, 1), _unit(7, 5, 2)
    parts = teacher.split(counts)

    def body(world: World) -> Tensor:
        step = FakeStep({}, world=world)
        part = parts[step.rank]
        return sinkhorn(part, others, 0.05, lambda x: log_sum(step, x), dtype=torch.float64).offset  # type: ignore[arg-type]

    single = sinkhorn(teacher, others, 0.05, dtype=torch.float64).offset
    for offset in run_ranks(len(counts), body):
        torch.testing.assert_close(offset, single, rtol=1e-12, atol=1e-12)
    alone = sinkhorn(parts[0], others, 0.05, dtype=torch.float64).offset
    if counts[0] < len(teacher):  # assignments over one rank's rows are others
        assert (alone - single).abs().max() > 1e-2


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0, 30.0, 1e4])
def test_extreme_scores_in_float32(scale: float, alone: bool) -> None:
    """Far beyond what exp() holds in float32: published code overflows from 88 on."""
    teacher, others = _unit(9, 5, 1).float(), _unit(6, 5, 2).float() * scale
    found = _targets(teacher, others, 0.04, alone=alone)
    if scale <= 30:
        plain = _targets(teacher.double(), others.double(), 0.04, alone=False, dtype=torch.float64)
        torch.testing.assert_close(found, plain.float(), rtol=1e-3, atol=1e-4)
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found.sum(1), torch.ones(9))


def test_equal_rows_are_spread_and_no_rows_do_no_harm() -> None:
    same = _unit(1, 5, 1).expand(8, 5)
    found = _targets(same, _unit(4, 5, 2), 0.04, dtype=torch.float64)
    torch.testing.assert_close(found, torch.full((8, 4), 0.25, dtype=torch.float64))
    for log in (None, lambda x: log_sum(FakeStep({}), x)):
        nothing = sinkhorn(same[:0], _unit(4, 5, 2), 0.04, log)
        assert torch.isfinite(nothing.offset).all()
        assert nothing.normalizer is None or nothing.normalizer.shape == (0,)


def test_scores_too_far_apart_for_factors_are_assigned_in_the_log_domain() -> None:
    teacher, others = _unit(9, 5, 1).float(), _unit(6, 5, 2).float()
    assert sinkhorn(teacher, others, 0.04).normalizer is not None
    beyond = sinkhorn(teacher, others * 100, 0.04)
    ranks = sinkhorn(teacher, others * 100, 0.04, lambda x: x)
    assert beyond.normalizer is None
    torch.testing.assert_close(beyond.offset, ranks.offset, rtol=0, atol=0)
