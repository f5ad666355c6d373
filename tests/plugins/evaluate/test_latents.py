"""Latent statistics against numpy and scipy on all latents at once."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.stats import kurtosis, norm, t
from torch import nn

from tests.agreement import Agreement
from tests.core.evaluation_sets import drawn_set
from tests.core.toy_tokenizer import toy_tokenizer
from vtp_core.evaluation.runner import evaluate
from vtp_core.evaluation.sets.dataset import EvaluationSet
from vtp_core.testing import ShapesSource, check_evaluator, tiny_tokenizer
from vtp_core.tokenizer import Tokenizer
from vtp_plugins.evaluate_latents.config import LatentStatisticsConfig
from vtp_plugins.evaluate_latents.evaluator import LatentStatistics
from vtp_plugins.evaluate_latents.metric import (
    dimensions,
    effective_rank,
    participation_ratio,
    spectrum,
    white_spectrum,
)
from vtp_plugins.evaluate_latents.moments import HigherMoments

COUNT = 17
CONFIG = LatentStatisticsConfig()


@pytest.fixture(scope="module")
def held_out() -> EvaluationSet:
    return EvaluationSet(name="drawn", source=ShapesSource(COUNT, size=32))


@pytest.fixture(scope="module")
def latents(held_out: EvaluationSet) -> tuple[np.ndarray, list[str]]:
    """Latents (n, d, h, w) float64 of all images, and their keys."""
    (batch,) = held_out.batches(32, COUNT)
    with torch.no_grad():
        latent = tiny_tokenizer().encode(batch.to("cpu").image).latent
    return latent.double().numpy(), list(batch.keys)


def measured(model: Tokenizer, held_out: EvaluationSet, rows: int = 4) -> dict[str, dict[str, object]]:
    return evaluate(model, {"it": LatentStatistics(CONFIG)}, held_out, rows=rows)


def entropy_rank(values: np.ndarray, epsilon: float = 0.0) -> float:
    shares = values / values.sum() + epsilon
    return float(np.exp(-(shares * np.log(shares)).sum()))


def eigenvalues(latent: np.ndarray) -> np.ndarray:
    flat = latent.transpose(0, 2, 3, 1).reshape(-1, latent.shape[1])
    return np.linalg.svd(flat - flat.mean(0), compute_uv=False) ** 2


FIGURES: dict[str, Callable[[np.ndarray], float]] = {
    "effective_rank": lambda x: entropy_rank(eigenvalues(x)),
    "participation_ratio": lambda x: eigenvalues(x).sum() ** 2 / (eigenvalues(x) ** 2).sum(),
    "rankme": lambda x: entropy_rank(np.linalg.svd(x.mean((2, 3)), compute_uv=False), 1e-7),
    "latent_kurtosis": lambda x: np.abs(kurtosis(x.transpose(1, 0, 2, 3).reshape(x.shape[1], -1), 1)).mean(),
    "dead_channels": lambda x: 0.0,
}


def test_figures_and_their_errors_are_numpys(
    held_out: EvaluationSet, latents: tuple[np.ndarray, list[str]]
) -> None:
    latent, keys = latents
    found = measured(tiny_tokenizer(), held_out)
    assert found.keys() == FIGURES.keys()
    group = np.array([zlib.crc32(key.encode()) % 8 for key in keys])
    present = [g for g in range(8) if (group == g).any()]
    for name, figure in FIGURES.items():
        entry = found[name]
        assert entry["value"] == pytest.approx(figure(latent), abs=1e-6), name
        without = np.array([figure(latent[group != g]) for g in present])
        student = t.ppf(0.975, len(present) - 1) / norm.ppf(0.975)
        error = ((len(present) - 1) * without.var()) ** 0.5 * student
        assert entry["error"] == pytest.approx(error, rel=1e-3, abs=1e-6), name
        assert entry["baseline_name"] == "colours of the latent's grid" and entry["verdict"], name
        assert entry["aspect"] == "generation"
    flat = latent.transpose(1, 0, 2, 3).reshape(latent.shape[1], -1)
    for channel in range(len(flat)):
        also = found["dead_channels"]["also"]
        assert also[f"mean of channel {channel}"] == pytest.approx(flat[channel].mean(), abs=1e-9)
        assert also[f"deviation of channel {channel}"] == pytest.approx(flat[channel].std(), abs=1e-9)
        expected = kurtosis(flat[channel])
        assert found["latent_kurtosis"]["also"][f"excess kurtosis of channel {channel}"] == pytest.approx(
            expected
        )
    about = found["effective_rank"]["also"]
    values = eigenvalues(latent)
    assert about["share of dimension 1"] == pytest.approx(values[0] / values.sum())
    correlation = np.linalg.eigvalsh(np.corrcoef(flat))
    assert about["of normalised channels"] == pytest.approx(entropy_rank(correlation), abs=1e-6)
    every = latent.transpose(0, 2, 3, 1).reshape(-1, latent.shape[1])
    expected = entropy_rank(np.linalg.svd(every, compute_uv=False), 1e-7)
    assert found["rankme"]["also"]["of all positions"] == pytest.approx(expected, abs=1e-6)


def test_the_colours_of_the_grid_are_the_trivial_latent(held_out: EvaluationSet) -> None:
    found = measured(tiny_tokenizer(), held_out)
    (batch,) = held_out.batches(32, COUNT)
    images = batch.crops["global"][:, 0].double().numpy()
    colors = images.reshape(COUNT, 3, 4, 8, 4, 8).mean((3, 5))
    for name, figure in FIGURES.items():
        expected = 0.25 if name == "dead_channels" else figure(colors)  # three of four channels live
        assert found[name]["baseline"] == pytest.approx(expected, abs=1e-6), name


def test_intervals_of_few_images_end_at_the_bounds() -> None:
    images, channels = 3, toy_tokenizer().latent_channels
    found = measured(toy_tokenizer(), drawn_set("three", images, 0))
    free = {}
    for name, most in (("effective_rank", channels), ("participation_ratio", channels), ("rankme", images)):
        value, error, (low, high) = (found[name][key] for key in ("value", "error", "interval"))  # type: ignore[misc]
        assert 1 <= low <= value <= high <= most, name
        free[name] = (value - 2 * error, value + 2 * error)
        assert (low, high) == (max(free[name][0], 1), max(value, min(free[name][1], most)))
    assert free["rankme"][1] > images and min(low for low, _ in free.values()) < 1


def test_it_keeps_the_rules_of_evaluators() -> None:
    check_evaluator(LatentStatistics, CONFIG, tolerance=1e-6)


class Spoilt(nn.Module):
    """Multiplies the channels of a bottleneck's latent."""

    def __init__(self, inner: nn.Module, gains: list[float]) -> None:
        super().__init__()
        self.inner, self.gains = inner, torch.tensor(gains)
        for name in ("channels", "layers", "codebook_sizes", "branch_channels"):
            setattr(self, name, getattr(inner, name))

    def forward(self, features: object) -> object:
        latent = self.inner(features)
        latent.crops["global"].patches.mul_(self.gains)
        return latent


def spoilt(*gains: float) -> Tokenizer:
    model = tiny_tokenizer()
    model.bottleneck = Spoilt(model.bottleneck, list(gains))
    return model


def test_dead_channels_are_counted_and_left_out_of_the_kurtosis(held_out: EvaluationSet) -> None:
    found, whole = measured(spoilt(1, 0, 1, 1e-3), held_out), measured(tiny_tokenizer(), held_out)
    dead = found["dead_channels"]
    assert dead["value"] == 0.5 and dead["verdict"] == "worse" and dead["baseline"] == 0.25
    each = [abs(whole["latent_kurtosis"]["also"][f"excess kurtosis of channel {c}"]) for c in (0, 2)]
    assert found["latent_kurtosis"]["value"] == pytest.approx(np.mean(each), rel=1e-5)
    assert found["effective_rank"]["value"] < 2.01
    assert whole["dead_channels"]["value"] == 0 and whole["dead_channels"]["verdict"] == "better"


def test_constant_latents_have_no_spectrum(held_out: EvaluationSet) -> None:
    found = measured(spoilt(0, 0, 0, 0), held_out)
    assert found.keys() == {"dead_channels"} and found["dead_channels"]["value"] == 1
    assert found["dead_channels"]["notes"] == [
        "the latents are the same everywhere, so that they have no spectrum"
    ]


def test_the_statistics_of_the_artefact(
    held_out: EvaluationSet, latents: tuple[np.ndarray, list[str]]
) -> None:
    flat = latents[0].transpose(1, 0, 2, 3).reshape(4, -1)
    model = tiny_tokenizer()
    assert model.config is not None
    mean, std = flat.mean(1), flat.std(1)
    for shift, factor in ((0.0, 1.0), (0.5, 2.0)):
        statistics = {"latents_mean": tuple(mean - shift * factor * std), "latents_std": tuple(factor * std)}
        model.config = model.config.model_copy(update=statistics)
        entry = measured(model, held_out)["statistics_gap"]
        expected = np.log(factor) + (1 / factor**2 + shift**2 - 1) / 2
        assert entry["value"] == pytest.approx(expected, abs=1e-9)
        standard = -np.log(std) + (std**2 + mean**2 - 1) / 2
        assert entry["baseline"] == pytest.approx(standard.mean(), abs=1e-6)
        assert entry["baseline_name"] == "mean 0, deviation 1"
        assert entry["also"]["largest shift of a mean, deviations"] == pytest.approx(shift, abs=1e-9)
        assert entry["also"]["least ratio of deviations"] == pytest.approx(1 / factor)


@pytest.mark.agrees("kurtosis of latents, streaming", "scipy", 1e-9)
def test_moments_far_from_zero_keep_their_precision(agreement: Agreement) -> None:
    vectors = torch.randn(300, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    near = HigherMoments.of(vectors)
    far = HigherMoments.merged([HigherMoments.of(part) for part in (vectors + 1e6).split([1, 7, 92, 200])])
    torch.testing.assert_close(far.excess_kurtosis, near.excess_kurtosis, rtol=1e-7, atol=1e-7)
    agreement(near.excess_kurtosis, kurtosis(vectors.numpy()))


@pytest.mark.parametrize("vectors", [40, 5000])
def test_white_spectra_are_those_of_drawn_vectors(vectors: int) -> None:
    rng = np.random.default_rng(1)
    found = white_spectrum(vectors, 48)
    assert int((found > 1e-9).sum()) == min(vectors, 48)
    for figure in (effective_rank, participation_ratio):
        drawn = [
            figure(spectrum(torch.from_numpy((x := rng.normal(size=(vectors, 48))).T @ x))) for _ in range(8)
        ]
        assert abs(figure(found) - np.mean(drawn)) < 6 * np.std(drawn, ddof=1)


def test_dimensions_hold_their_part() -> None:
    assert [dimensions(torch.tensor([6.0, 3.0, 1.0]), part) for part in (0.5, 0.6, 0.9, 0.99)] == [1, 1, 2, 3]
