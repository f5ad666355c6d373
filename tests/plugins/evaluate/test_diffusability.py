"""Posterior, variance of the velocity and the other figures of latents, against closed forms in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.spatial.distance import cdist
from torch import Tensor

from vtp_core.artefact.config import ArtefactConfig
from vtp_core.evaluation.protocol import EvaluationProtocol
from vtp_core.evaluation.runner import evaluate
from vtp_core.evaluation.sets.dataset import EvaluationSet
from vtp_core.math.row_noise import row_randn, row_seeds
from vtp_core.testing import TINY_DIMS, ShapesSource, TinyNetworks, check_evaluator
from vtp_core.testing.networks import TinyDecoder
from vtp_core.tokenizer import Tokenizer
from vtp_plugins.evaluate_diffusability import metric
from vtp_plugins.evaluate_diffusability.config import DiffusabilityConfig
from vtp_plugins.evaluate_diffusability.evaluator import PERMUTED, WHITE, Diffusability
from vtp_plugins.evaluate_diffusability.perturbation import nearest_codes, replace_codes
from vtp_plugins.evaluate_diffusability.posterior import posterior_of_others
from vtp_plugins.vq.bottleneck import VqBottleneck
from vtp_plugins.vq.config import VqConfig

TINY = DiffusabilityConfig(samples=16, decoded=4, times=(0.05, 0.5), least_neighbours=1.5, nearest=2)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("time", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize(("images", "count", "width"), [(12, 2, 3), (9, 1, 40), (4, 3, 1)])
def test_posterior_is_that_of_a_mixture_of_the_other_images_points(
    time: float, images: int, count: int, width: int
) -> None:
    points, x = normal(images, count, width), 2 * normal(images, count, width, seed=1)
    found = posterior_of_others(points, x, time, 1 - time)
    z = points.numpy()
    for image in range(images):
        others = np.delete(z, image, 0).reshape(-1, width)
        for token in range(count):
            log = -cdist(x[image, token][None].numpy(), time * others, "sqeuclidean")[0] / (
                2 * (1 - time) ** 2
            )
            weight = np.exp(log - log.max())
            total = weight.sum()
            weight /= total
            mean = weight @ others
            variance = (weight @ (others - mean) ** 2).sum()
            entropy = -(weight[weight > 0] * np.log(weight[weight > 0])).sum()
            assert found.mean[image, token].numpy() == pytest.approx(mean, abs=1e-5)
            assert float(found.variance[image, token]) == pytest.approx(variance, abs=1e-5)
            assert float(found.entropy[image, token]) == pytest.approx(entropy, abs=1e-5)
            assert float(found.log_sum[image, token]) == pytest.approx(
                log.max() + math.log(total), rel=1e-6, abs=1e-5
            )


def test_variance_is_the_integral_over_x_within_three_standard_errors() -> None:
    """Four images of one point on a line; the mean over noise of each image's variance by quadrature."""
    z, time = np.array([-1.3, 0.2, 0.5, 1.7]), 0.6
    rest = 1 - time

    def variance_at(x: float, others: np.ndarray) -> float:
        weight = np.exp(-((x - time * others) ** 2) / (2 * rest**2))
        weight /= weight.sum()
        return float(weight @ others**2 - (weight @ others) ** 2) / rest**2

    draws = 4000
    # One call: each draw is a set of its own, so every one is measured by itself.
    noise = row_randn(row_seeds(0, torch.arange(draws)), 4, dtype=torch.float64)
    points = torch.from_numpy(z)[:, None, None].expand(4, draws, 1)
    x = time * points + rest * noise.T[..., None]
    found = (
        torch.stack(
            [
                posterior_of_others(points[:, :1], part, time, rest).variance[:, 0]
                for part in x[:, :400].split(1, dim=1)
            ]
        )
        / rest**2
    )
    for image in range(4):
        others = np.delete(z, image)
        exact, _ = quad(
            lambda e, i=image, o=others: (
                math.exp(-e * e / 2) / math.sqrt(2 * math.pi) * variance_at(time * z[i] + rest * e, o)
            ),
            -8,
            8,
        )
        values = found[:, image]
        assert abs(float(values.mean()) - exact) < 3 * float(values.std()) / math.sqrt(len(values))


def test_white_latents_have_the_variance_of_the_closed_form() -> None:
    """A standard normal z: the velocity's irreducible variance is 1 / (t^2 + (1 - t)^2) for each number."""
    points, noise = normal(400, 4, 2), normal(400, 4, 2, seed=1)
    for time in (0.1, 0.5, 0.7):
        found = metric.velocity(points, noise, time)
        exact = 1 / (time**2 + (1 - time) ** 2)
        error = float(found.error.std()) / 400**0.5
        assert float(found.variance.mean()) == pytest.approx(exact, rel=0.1)
        assert abs(float(found.error.mean()) - exact) < 3 * error + 0.05 * exact
        assert found.neighbours > 10


def states(points: Tensor, *times: float, permuted: Tensor | None = None) -> dict[float, dict[str, Any]]:
    """Time -> entry of the variance of standardised points (I, n, d)."""
    evaluator = Diffusability(DiffusabilityConfig(times=times))
    seeds = row_seeds(0, torch.arange(len(points)))
    scores = evaluator._velocities("token", points, permuted, seeds)
    protocol = EvaluationProtocol(name="p", image_size=16)
    about = evaluator.metrics
    found = {time: f"token_variance_t{time:g}" for time in times}
    return {t: scores[name].entry(about[name], protocol) for t, name in found.items() if name in scores}


@pytest.mark.parametrize("width", [2, 8, 32])
def test_white_latents_are_never_better_than_white_ones(width: int) -> None:
    for seed in range(2):
        points = normal(196, 4, width, seed=seed)
        points = (points - points.mean((0, 1))) / points.std((0, 1), correction=0)
        found = states(points, 0.3, 0.5)
        assert found
        for time, entry in found.items():
            assert entry["baselines"] == {WHITE: pytest.approx(metric.white_variance(time))}
            assert entry["verdict"] not in ("better", "worse"), (time, entry)


def test_few_neighbours_alone_make_nothing_better_than_white() -> None:
    """Hardly more than the least that is reported: the variance of white points is far below the exact 2."""
    entry = states(normal(400, 4, 30, seed=5), 0.5)[0.5]
    assert 4 < entry["also"]["effective neighbours"] < 6
    assert entry["value"] + 20 * entry["error"] < 1.9 < 2.5 < entry["also"]["prediction error"]
    assert entry["baseline"] == 2.0 and entry["verdict"] is None
    assert any(note.startswith("no verdict: ") for note in entry["notes"])


def test_what_is_easier_or_harder_than_white_by_both_figures_has_a_verdict() -> None:
    few = normal(64, 1, 2) @ normal(2, 48, seed=1) * 0.3
    entry = states(few, 0.5)[0.5]
    assert entry["verdict"] == "better" and entry["also"]["prediction error"] < entry["baseline"] == 2.0
    assert entry["beside"] == ["effective neighbours", "prediction error"] and not entry["notes"]
    assert states(1.5 * normal(256, 1, 1, seed=3), 0.5)[0.5]["verdict"] == "worse"
    # Tokens that were shuffled across images are a finite set too: like is compared with like.
    dealt = few[torch.randperm(64, generator=torch.Generator().manual_seed(0))]
    entry = states(few, 0.5, permuted=dealt)[0.5]
    assert set(entry["baselines"]) == {WHITE, PERMUTED}
    assert entry["baseline_name"] == PERMUTED and entry["verdict"] != "better"


def test_one_number_repeated_has_the_variance_of_the_closed_form() -> None:
    """z = s (1, ..., 1): six observations of one standard normal s."""
    noise, time = normal(400, 2, 6, seed=1), 0.3
    found = metric.velocity(normal(400, 2, 1).expand(400, 2, 6).contiguous(), noise, time)
    exact = 1 / ((1 + 6 * time**2 / (1 - time) ** 2) * (1 - time) ** 2)
    assert float(found.variance.mean()) == pytest.approx(exact, rel=0.1)
    assert metric.velocity(100 * normal(64, 1, 6), noise[:64, :1], 0.9).neighbours < 1.1


def test_the_slope_of_a_power_law_is_its_exponent() -> None:
    side = 16
    frequency = np.fft.fftfreq(side)
    radius = np.hypot(frequency[:, None], frequency)
    radius[0, 0] = 1
    white = np.fft.fft2(normal(64, 3, side, side).numpy())
    shaped = torch.from_numpy(np.fft.ifft2(white * radius**-1.0).real.copy())
    log_radius, power = metric.power_spectrum(shaped)
    assert float(metric.slope(log_radius, power.mean(0))) == pytest.approx(-2, abs=0.05)


def test_uniformity_is_that_of_all_pairs_of_other_images() -> None:
    tokens = normal(16, 2, 3)
    unit = (tokens / tokens.norm(dim=-1, keepdim=True)).numpy()
    expected = []
    for image in range(16):
        others = np.delete(unit, image, 0).reshape(-1, 3)
        expected.append(np.exp(-2 * cdist(unit[image], others, "sqeuclidean")).mean())
    assert metric.closeness(tokens).numpy() == pytest.approx(np.array(expected), rel=1e-6)


def test_scale_error_is_zero_for_an_equivariant_encoder() -> None:
    whole = normal(5, 3, 4, 4)
    half = torch.nn.functional.avg_pool2d(whole, 2)
    channels = metric.Channels.of(whole)
    error, spread = metric.scale_error(half, whole, channels)
    assert float(error.max()) < 1e-20
    assert float(spread.min()) > 0


def test_permuted_tokens_keep_what_stands_at_each_position() -> None:
    latents = normal(6, 2, 2, 3)
    dealt = metric.permuted_tokens(latents, row_seeds(0, torch.arange(6)))
    assert not torch.equal(dealt, latents)
    for row in range(2):
        for column in range(3):
            before, after = latents[:, :, row, column], dealt[:, :, row, column]
            assert torch.equal(before[before[:, 0].argsort()], after[after[:, 0].argsort()])


def vq_tokenizer() -> Tokenizer:
    torch.manual_seed(0)
    table = VqConfig(
        channels=4, quantizer={"kind": "product", "groups": 2, "each": {"kind": "ema", "codes": 8}}
    )
    config = ArtefactConfig(
        vtp_version="0", recipe="tiny", step=0, image_size=32,
        **{part: {"use": f"tiny.{part}"} for part in ("encoder", "bottleneck", "decoder")},
    )  # fmt: skip
    networks = TinyNetworks(TINY_DIMS, 0)
    bottleneck = VqBottleneck(table, TINY_DIMS)
    return (
        Tokenizer(networks.encoder, bottleneck, TinyDecoder(), {}, config=config).eval().requires_grad_(False)
    )


def test_of_equally_near_codes_the_first_ones_are_taken_wherever_they_lie() -> None:
    model = vq_tokenizer()
    corners = torch.tensor([[i >> 1 & 1, i & 1] for i in (0, 1, 2, 3, 0, 1, 2, 3)], dtype=torch.float32)
    for part in model.bottleneck.quantizer.parts:
        part.codebook.copy_(8 * corners + 2**24)
    table = nearest_codes(model, torch.arange(8).view(8, 1, 1, 1).expand(8, 2, 1, 1), 3)[0]
    found = table.tolist()
    assert found[:4] == [[4, 1, 2], [5, 0, 3], [6, 0, 3], [7, 1, 2]]
    assert found[4:] == [[0, 1, 2], [1, 0, 3], [2, 0, 3], [3, 1, 2]]


def test_codes_are_replaced_by_near_ones_at_the_asked_rate() -> None:
    model = vq_tokenizer()
    codes = torch.randint(8, (40, 2, 4, 4), generator=torch.Generator().manual_seed(0))
    tables = nearest_codes(model, codes, 3)
    for number, table in enumerate(tables):
        grid = torch.zeros(8, 2, 1, 1, dtype=torch.int64)
        grid[:, number, 0, 0] = torch.arange(8)
        vectors = model.bottleneck.decode_codes(grid)[:, :, 0, 0].double().numpy()
        distance = cdist(vectors, vectors) + 1e9 * np.eye(8)
        assert np.sort(table.numpy(), 1).tolist() == np.sort(np.argsort(distance, 1)[:, :3], 1).tolist()
    seeds, rows = row_seeds(0, torch.arange(40)), torch.arange(40)
    new = replace_codes(model, codes, tables, 0.25, 0)(rows, seeds)
    old = model.bottleneck.decode_codes(codes)
    # Each of the two codebooks fills half of the channels.
    for half in (slice(0, 2), slice(2, 4)):
        changed = (new[:, half] != old[:, half]).any(1).double().mean()
        assert abs(float(changed) - 0.25) < 3 * (0.25 * 0.75 / 640) ** 0.5


def test_keeps_the_rules_of_evaluators_and_reports_every_figure() -> None:
    check_evaluator(Diffusability, TINY, samples=19)
    model = vq_tokenizer()
    held_out = EvaluationSet(name="drawn", source=ShapesSource(18, size=32))
    results = evaluate(model, {"it": Diffusability(TINY)}, held_out, rows=5)
    variances = {"token_variance_t0.05", "latent_variance_t0.05"}
    rest = {"spectrum_slope", "uniformity", "decode_noise_0.1", "decode_noise_0.3", "decode_codes_0.1"}
    assert variances | rest <= results.keys()
    assert set(results["spectrum_slope"]["baselines"]) == {WHITE, PERMUTED}
    for name in ("spectrum_slope", "uniformity"):
        assert results[name]["verdict"] is None and results[name]["baseline"] is not None
        assert "is a hypothesis" in str(results[name]["notes"])
    assert results["decode_noise_0.3"]["verdict"] is not None
    assert all(entry["aspect"] == "generation" for entry in results.values())
    assert results["decode_noise_0.1"]["value"] > results["decode_noise_0.3"]["value"]
    for name in variances:
        assert results[name]["also"]["effective neighbours"] >= 1.5
    assert "16 images" in str(results["uniformity"]["protocol"])


def test_perturbed_decodes_are_also_compared_by_a_networks_features() -> None:
    table = TINY.model_copy(update={"network": "timm:test_resnet", "weights": "random", "decoded": 16})
    held_out = EvaluationSet(name="drawn", source=ShapesSource(16, size=32))
    results = evaluate(vq_tokenizer(), {"it": Diffusability(table)}, held_out)
    small, large = (results[f"decode_noise_kd_{sigma}"]["value"] for sigma in (0.1, 0.3))
    assert {"decode_codes_kd_0.1", "decode_codes_kd_0.3"} <= results.keys()
    assert small < large < results["decode_noise_kd_0.3"]["baselines"]["mean colour"]
    assert not results["decode_noise_kd_0.3"]["higher_is_better"]
    assert "test_resnet, weights random" in str(results["uniformity"]["protocol"])
