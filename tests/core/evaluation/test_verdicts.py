"""Intervals against closed forms, and the verdict beside the strongest trivial answer."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm, t

from vtp_core.evaluation.intervals import resampled, score_of
from vtp_core.evaluation.jackknife import jackknife_error
from vtp_core.evaluation.protocol import Baseline, EvaluationProtocol, Metric, Score, Verdict
from vtp_core.evaluation.student import widening

PROTOCOL = EvaluationProtocol(name="p-v1", image_size=16)


def entry(score: Score, *, higher: bool = True) -> Mapping[str, object]:
    return score.entry(Metric(title="M", higher_is_better=higher), PROTOCOL)


def hits(right: int, count: int) -> torch.Tensor:
    return torch.arange(count) < right


@given(st.integers(0, 10_000))
def test_errors_of_means_are_those_of_the_formula(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    own = torch.randn(80, generator=draw, dtype=torch.float64) * 3 + 20
    other = own - 1 + 0.2 * torch.randn(80, generator=draw, dtype=torch.float64)
    score = score_of(own, {"other": other})
    assert score.value == pytest.approx(float(own.mean()))
    assert score.error == pytest.approx(float(own.std()) / 80**0.5, rel=0.12)
    # Paired: the spread of the difference, which is far smaller than that of either.
    assert score.baselines["other"].error == pytest.approx(float((own - other).std()) / 80**0.5, rel=0.12)
    assert score.interval is not None and score.interval[0] < score.value < score.interval[1]
    assert score.interval[1] - score.interval[0] == pytest.approx(4 * score.error, rel=0.15)


@pytest.mark.parametrize(("right", "count"), [(0, 20), (20, 20), (3, 50), (25, 50), (700, 1000)])
def test_errors_of_proportions_are_agresti_and_coulls(right: int, count: int) -> None:
    share = (right + 2) / (count + 4)
    score = score_of(hits(right, count))
    assert score.value == right / count
    assert score.error == pytest.approx((share * (1 - share) / (count + 4)) ** 0.5, rel=0.1)


def test_intervals_depend_on_neither_order_nor_chance() -> None:
    values, other = torch.rand(50, dtype=torch.float64), torch.rand(50, dtype=torch.float64)
    order = torch.randperm(50)
    one, two = score_of(values, {"t": other}), score_of(values[order], {"t": other[order]})
    assert one.error == pytest.approx(two.error, rel=1e-12) and one.interval == pytest.approx(two.interval)
    assert one.baselines["t"].error == pytest.approx(two.baselines["t"].error, rel=1e-12)


@pytest.mark.parametrize(
    ("right", "trivial", "verdict"),
    [
        (30, 0.1, "better"),
        (12, 0.1, "within noise"),
        (8, 0.1, "within noise"),
        (2, 0.2, "worse"),
        (0, 0.02, "within noise"),  # 0 of 100 is no proof of less than 0.02
    ],
)
def test_three_states_beside_a_known_chance(right: int, trivial: float, verdict: Verdict) -> None:
    assert entry(score_of(hits(right, 100), {"chance": trivial}))["verdict"] == verdict


def test_a_green_verdict_needs_the_strongest_answer_and_two_standard_errors() -> None:
    """Zero-shot of .140 is above chance, .05, and below the largest class, .223."""
    shown = entry(score_of(hits(140, 1000), {"chance": 0.05, "largest class": hits(223, 1000)}))
    assert (shown["baseline"], shown["baseline_name"]) == (0.223, "largest class")
    assert shown["baselines"] == {"chance": pytest.approx(0.05), "largest class": 0.223}
    assert shown["verdict"] == "worse"


def test_where_lower_is_better_the_strongest_answer_is_the_lowest() -> None:
    trivial = {"a": Baseline(value=2.0, error=0.4), "b": Baseline(value=3.0, error=0.4)}
    for value, verdict in ((1.0, "better"), (1.5, "within noise"), (2.9, "worse")):
        shown = entry(Score(value=value, baselines=trivial), higher=False)
        assert (shown["baseline_name"], shown["verdict"]) == ("a", verdict)


def test_pairs_tell_what_separate_errors_can_not() -> None:
    """The same images are hard for both: 60 and 54 of 100 right, all of the 54 among the 60."""
    shown = entry(score_of(hits(60, 100), {"raw pixels": hits(54, 100)}))
    assert shown["verdict"] == "better"
    other = torch.arange(100) >= 46  # as many, of other images
    assert entry(score_of(hits(60, 100), {"raw pixels": other}))["verdict"] == "within noise"


@given(st.integers(1, 40), st.floats(0, 1))
def test_intervals_of_proportions_end_at_0_and_1(count: int, share: float) -> None:
    score = score_of(hits(round(share * count), count), {"chance": 0.3})
    free, kept = (
        score.entry(metric, PROTOCOL) for metric in (Metric(title="M"), Metric(title="M", low=0, high=1))
    )
    (low, high), bounds = kept["interval"], free["interval"]  # type: ignore[misc]
    assert 0 <= low <= score.value <= high <= 1 and low < high
    # A share that may be the true one is not excluded, and nothing but the interval changes.
    assert low == max(bounds[0], 0) and high == min(bounds[1], 1)  # type: ignore[index]
    assert {**kept, "interval": None} == {**free, "interval": None}


def test_intervals_end_at_the_bounds_of_their_metric() -> None:
    def interval(value: float, error: float, **bounds: float) -> object:
        return Score(value=value, error=error).entry(Metric(title="M", **bounds), PROTOCOL)["interval"]  # type: ignore[arg-type]

    assert interval(4.5, 3.0) == [-1.5, 10.5]
    assert interval(4.5, 3.0, low=1) == [1, 10.5] and interval(4.5, 3.0, low=1, high=6) == [1, 6]
    assert interval(4.5, 1.0, low=1, high=8) == [2.5, 6.5]
    # A number that rounding puts beyond a bound stays inside its interval.
    assert interval(1 + 1e-9, 0.1, low=-1, high=1) == [pytest.approx(0.8), 1 + 1e-9]


def test_without_an_error_there_is_no_verdict() -> None:
    shown = entry(Score(value=3.0, baseline=1.0))
    assert shown["baseline"] == 1.0 and shown["verdict"] is None and shown["interval"] is None
    assert entry(Score(value=3.0, baseline=1.0, error=0.5))["verdict"] == "better"
    assert entry(Score(value=3.0, baseline=1.0, error=0.5))["interval"] == [2.0, 4.0]
    alone = entry(score_of(torch.tensor([3.0]), {"t": torch.tensor([1.0])}))
    assert alone["baseline"] == 1.0 and alone["verdict"] is None
    none = entry(Score(value=3.0, baseline=float("nan"), error=0.1))
    assert none["baseline"] is None and none["verdict"] is None


@pytest.mark.parametrize("count", [4, 6, 30, 215])
def test_draws_are_as_wide_as_students_distribution(count: int) -> None:
    """Against scipy's quantile and the exact error of a mean: four images once were judged too easily."""
    values = torch.randn(count, 1, generator=torch.Generator().manual_seed(count), dtype=torch.float64)
    found = resampled(values, 20_000)[:, 0]
    expected = values.std().item() / count**0.5 * t.ppf(0.975, count - 1) / norm.ppf(0.975)
    assert found.std().item() == pytest.approx(expected, rel=0.03)
    assert found.mean().item() == pytest.approx(values.mean().item(), abs=0.05 * expected)


@pytest.mark.parametrize("parts", [4, 8, 20])
def test_two_errors_of_the_jackknife_hold_the_truth_in_95_of_100_cases(parts: int) -> None:
    """With four parts they once held it in 86."""
    draws = torch.randn(4000, parts, generator=torch.Generator().manual_seed(parts), dtype=torch.float64)
    without = (draws.sum(1, keepdim=True) - draws) / (parts - 1)
    held = [
        abs(mean) < 2 * error
        for mean, row in zip(draws.mean(1).tolist(), without.tolist(), strict=True)
        if (error := jackknife_error(row)) is not None
    ]
    assert len(held) == 4000 and sum(held) / 4000 == pytest.approx(0.954, abs=0.011)


def test_the_widening_is_that_of_students_distribution() -> None:
    for degrees, tolerance in ((3, 0.01), (4, 0.004), (7, 1e-3), (19, 1e-4), (1000, 1e-6)):
        assert widening(degrees) == pytest.approx(t.ppf(0.975, degrees) / norm.ppf(0.975), rel=tolerance)


@pytest.mark.parametrize(
    ("about", "bounds"),
    [
        ({"error": 0.5}, (0.0, 2.0)),
        ({"error": 0.5, "interval": (0.7, 1.1)}, (0.7, 1.1)),
        ({}, None),
        ({"error": math.nan}, None),
        ({"error": 0.5, "interval": (-math.inf, 1.1)}, None),
    ],
)
def test_bounds_are_the_interval_or_two_standard_errors(about, bounds) -> None:
    assert Score(value=1.0, **about).bounds == bounds
