"""`frechet_generated` from end to end; kernel distance, precision and recall against other libraries."""

from __future__ import annotations

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.stats import norm, t
from torch import Tensor

from tests.agreement import Agreement
from tests.core.evaluation.generates import Generator
from tests.core.evaluation_sets import drawn_set
from tests.core.toy_tokenizer import toy_tokenizer
from vtp_core.errors import NumericError, UsageError
from vtp_core.evaluation.runner import Results, evaluate, why_not
from vtp_core.math.row_noise import row_randn, row_seeds
from vtp_core.pixels import to_uint8
from vtp_core.testing import check_evaluator
from vtp_core.testing.ranks import run_processes
from vtp_core.testing.tiny_tokenizer import tiny_tokenizer
from vtp_core.tokenizer import Tokenizer
from vtp_core.training.ranks.world import World
from vtp_plugins.evaluate_frechet.config import FrechetConfig, FrechetGeneratedConfig
from vtp_plugins.evaluate_frechet.evaluator import Frechet
from vtp_plugins.evaluate_frechet.generated import NOISE, FrechetGenerated
from vtp_plugins.evaluate_frechet.manifold import precision_and_recall
from vtp_plugins.evaluate_frechet.metric import Moments, frechet_distance, kernel_distance, matrix_root
from vtp_plugins.evaluate_frechet.network import PooledFeatures

SMALL = "timm:test_resnet"
TRAIN, HELD_OUT = drawn_set("train", 40, 1), drawn_set("val", 30, 0)


def rows(count: int, seed: int, shift: float = 0.0, width: int = 6) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)) + shift


def gram(one: Tensor, other: Tensor) -> numpy.ndarray:
    return ((one @ other.T / one.shape[1] + 1) ** 3).numpy()


@pytest.mark.agrees("kernel distance, unbiased", "torch-fidelity", 1e-9)
@given(seed=st.integers(0, 1000), count=st.integers(2, 30))
def test_the_kernel_distance_is_that_of_torch_fidelity(agreement: Agreement, seed: int, count: int) -> None:
    fidelity = pytest.importorskip("torch_fidelity.metric_kid")
    one, other = rows(count, seed).double(), rows(count, seed + 1, 0.3).double()
    expected = fidelity.mmd2(gram(one, one), gram(one, other), gram(other, other))
    agreement(kernel_distance(one, other).value, expected)


@pytest.mark.agrees("kernel distance, unbiased", "torchmetrics", 1e-9, relative=True)
@pytest.mark.slow  # importing it takes seconds
def test_the_kernel_distance_is_that_of_torchmetrics(agreement: Agreement) -> None:
    kid = pytest.importorskip("torchmetrics.image.kid")
    one, other = rows(30, 0).double(), rows(30, 1, 0.3).double()
    agreement(kernel_distance(one, other).value, kid.poly_mmd(one, other))


@pytest.mark.agrees("kernel distance without pairs", "torch-fidelity", 1e-9, relative=True)
def test_pairs_are_left_out_as_in_the_u_statistic_of_torch_fidelity(agreement: Agreement) -> None:
    fidelity = pytest.importorskip("torch_fidelity.metric_kid")
    one, other = rows(25, 0).double(), (rows(25, 0) * 0.9 + 0.1).double()
    kernels = [gram(x, y) for x, y in ((one, one), (one, other), (other, other))]
    expected = fidelity.mmd2(*kernels, mmd_est="u-statistic")
    agreement(kernel_distance(one, other, paired=True).value, expected)
    assert kernel_distance(one, one, paired=True).value == pytest.approx(0, abs=1e-12)
    assert kernel_distance(one, one).value < -1e-3  # what the pairs would do


@pytest.mark.parametrize("paired", [False, True])
def test_leaving_a_part_out_is_measuring_without_its_rows(paired: bool) -> None:
    one, other = rows(23, 0), rows(23, 1, 0.2)
    parts = torch.arange(23) % 5
    other_parts = parts if paired else None
    found = kernel_distance(one, other, parts, other_parts, paired=paired)
    expected = [
        kernel_distance(one[parts != part], other[parts != part] if paired else other, paired=paired).value
        for part in range(5)
    ]
    assert found.without == pytest.approx(expected, rel=1e-9)
    spread = torch.tensor(expected, dtype=torch.float64)
    student = t.ppf(0.975, 4) / norm.ppf(0.975)
    assert found.error == pytest.approx(float((4 * spread.var(correction=0)).sqrt()) * student, rel=4e-3)


def test_the_kernel_distance_of_equal_distributions_is_zero_on_average_and_its_error_is_its_spread() -> None:
    found = [kernel_distance(rows(60, seed), rows(400, 1000), torch.arange(60) % 20) for seed in range(60)]
    values = torch.tensor([one.value for one in found])
    errors = torch.tensor([one.error for one in found])
    assert 0.6 < float(errors.square().mean().sqrt() / values.std()) < 1.6
    assert abs(float(values.mean())) < 4 * float(values.std()) / 60**0.5 + 0.05


@pytest.mark.agrees("precision and recall of features", "torch-fidelity", 1e-6)
@pytest.mark.parametrize("neighbors", [1, 3])
def test_precision_and_recall_are_those_of_torch_fidelity(neighbors: int, agreement: Agreement) -> None:
    fidelity = pytest.importorskip("torch_fidelity.metric_prc")
    made, real = rows(80, 0, 0.8).double(), rows(50, 1).double()
    expected = fidelity.calculate_precision_recall_full(made, real, neighbors)
    precision, recall = precision_and_recall(made, real, neighbors)
    assert (len(precision), len(recall)) == (80, 50) and precision.dtype == torch.bool
    found = [float(hits.double().mean()) for hits in (precision, recall)]
    agreement(found, expected)
    assert 0.1 < found[0] < 0.99


def test_rows_that_are_equal_lie_within_each_other() -> None:
    one = (rows(1, 3) * 1e3).expand(9, -1)
    precision, recall = precision_and_recall(one, one.clone())
    assert precision.all() and recall.all()
    assert not precision_and_recall(one + 1, one)[0].any()
    with pytest.raises(ValueError, match="3 neighbours need 4 rows"):
        precision_and_recall(one[:3], one)


def test_a_root_that_does_not_give_the_matrix_is_refused() -> None:
    with pytest.raises(NumericError, match="root of the features' covariance is inexact"):
        matrix_root(torch.diag(torch.tensor([1.0, -0.1], dtype=torch.float64)))
    with pytest.raises(NumericError, match="not finite"):
        matrix_root(torch.full((2, 2), torch.nan, dtype=torch.float64))


def generating() -> Tokenizer:
    model = toy_tokenizer(text=False)
    model.exports["generate"] = Generator()
    return model


SETTINGS = {"network": SMALL, "weights": "random", "resize": 32, "allow_fewer": True}


def evaluator(**settings: object) -> FrechetGenerated:
    table = {**SETTINGS, "samples": 50}
    return FrechetGenerated(FrechetGeneratedConfig.model_validate({**table, **settings}))


def numbers(world: World, batch: int) -> dict[str, Tensor]:
    metrics = ("frechet", "kernel", "precision_recall")
    results = evaluate(
        generating(), {"g": evaluator(metrics=metrics)}, HELD_OUT, TRAIN, rows=batch, world=world
    )
    return flat(results)


def flat(results: Results) -> dict[str, Tensor]:
    found = {}
    for metric, entry in results.items():
        also = entry["also"]
        assert isinstance(also, dict)
        for name, value in {**also, **{k: entry[k] for k in ("value", "baseline", "error")}}.items():
            found[f"{metric}.{name}"] = torch.tensor(value, dtype=torch.float64)
    return found


def images(latent: Tensor) -> Tensor:
    return to_uint8(toy_tokenizer(text=False).decode(latent).sample.detach(), "imagenet")


def test_the_numbers_are_those_of_all_features_at_once() -> None:
    found = numbers(World(), 7)
    network, model = PooledFeatures(SMALL, "random", 32), generating()
    with torch.no_grad():
        sets = {}
        for name, data in (("train", TRAIN), ("val", HELD_OUT)):
            (batch,) = data.batches(16, 100)
            sets[name] = network(batch.image)
            if name == "train":
                latent = model.encode(batch.to(model.device).image).latent.double()
        sets["samples"] = network(images(model.generate(torch.arange(50))))
        mean, std = latent.mean((0, 2, 3)), latent.transpose(0, 1).flatten(1).std(1, correction=0)
        noise = row_randn(row_seeds(NOISE, torch.arange(50)), 48, 4, 4)
        gauss = (noise * std.float().view(-1, 1, 1) + mean.float().view(-1, 1, 1)).float()
        sets["gauss"] = network(images(gauss))

    def normal(features: Tensor) -> tuple[Tensor, Tensor]:
        moments = Moments(features.shape[1])
        moments.add(features)
        return moments.mean_and_covariance()

    for name, key in (("samples", "value"), ("gauss", "baseline"), ("val", "floor")):
        fd = frechet_distance(normal(sets["train"]), normal(sets[name]))
        kd = kernel_distance(sets[name], sets["train"]).value
        assert float(found[f"gfd_random.{key}"]) == pytest.approx(fd, rel=1e-4)
        assert float(found[f"gkd_random.{key}"]) == pytest.approx(kd, rel=1e-4)
        precision, recall = precision_and_recall(sets[name], sets["train"])
        assert float(found[f"gprecision_random.{key}"]) == pytest.approx(float(precision.double().mean()))
        assert float(found[f"grecall_random.{key}"]) == pytest.approx(float(recall.double().mean()))


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3])
def test_batches_and_ranks_change_no_number(ranks: int) -> None:
    alone = numbers(World(), 64)
    for rank in run_processes(ranks, numbers, 7):
        assert rank.keys() == alone.keys()
        for name, number in alone.items():
            torch.testing.assert_close(rank[name], number, rtol=1e-4, atol=1e-5)


def test_protocols_say_what_a_number_depends_on_and_what_it_is_compared_with() -> None:
    results = evaluate(generating(), {"g": evaluator()}, HELD_OUT, TRAIN)
    assert list(results) == ["gfd_random", "gkd_random"]
    fd, kd = results["gfd_random"], results["gkd_random"]
    extractor = "timm:test_resnet, weights random, 96 pooled features, 32 px bilinear, 8 bit"
    sets = (
        "; centre-crop-v1 16 px; floor of val, all 30; against train, all 40; 50 generated samples, seed 0, "
        "sampler's settings not stated; student weights"
    )
    forced = "; FEWER images than features + 1 allowed"
    assert fd["protocol"] == f"frechet-v1 ({extractor}, float64 moments{forced}){sets}"
    assert kd["protocol"] == f"kernel-v1 ({extractor}, (x . y / C + 1)^3 of all pairs, unbiased){sets}"
    assert fd["baseline_name"] == "Gaussian latents" and fd["verdict"] and fd["aspect"] == "generation"
    assert fd["title"] == "Fréchet distance of samples, test_resnet"
    assert any("30 against 50 images" in note for note in fd["notes"])
    alone = evaluate(generating(), {"g": evaluator(reference="held_out", floor=False)}, HELD_OUT)
    assert "against val, all 30; 50 generated" in str(alone["gfd_random"]["protocol"])
    assert alone["gfd_random"]["also"] == {}


def test_too_few_samples_or_reference_images_are_refused() -> None:
    for settings, message in (
        ({"allow_fewer": False}, "it needs 97 images, and `samples` has 50; take more, or set allow_fewer"),
        ({"allow_fewer": False, "samples": 97}, "it needs 97 images, and train has 40"),
        ({"reference": "held_out", "metrics": ("kernel",)}, "it needs 16 images, and val has 3; take more;"),
    ):
        held_out = drawn_set("val", 3, 0) if "reference" in settings else HELD_OUT
        with pytest.raises(UsageError, match=f"evaluator g: {message}"):
            evaluate(generating(), {"g": evaluator(**settings)}, held_out, TRAIN)
    with pytest.raises(ValidationError, match="samples"):
        evaluator(samples=3)


@pytest.mark.slow
def test_it_passes_the_checks_of_evaluators() -> None:
    model = tiny_tokenizer()
    model.exports["generate"] = Generator()
    table = {**SETTINGS, "samples": 20, "metrics": ["frechet", "kernel", "precision_recall"]}
    check_evaluator(FrechetGenerated, FrechetGeneratedConfig.model_validate(table), model=model)


def test_pairs_of_too_many_images_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vtp_plugins.evaluate_frechet.comparison.MOST", 39)
    held_out = drawn_set("val", 40, 0)
    message = "compare at most 39 images, and {} has {}; take fewer, or metrics"
    for measured, name, count in (
        (evaluator(), "`samples`", 50),
        (evaluator(samples=20), "train", 40),
        (Frechet(FrechetConfig.model_validate({**SETTINGS, "metrics": ["kernel"]})), "val", 40),
    ):
        model = generating()
        assert message.format(name, count) in str(why_not(measured, model, held_out, TRAIN))
    assert why_not(evaluator(metrics=("frechet",)), generating(), held_out, TRAIN) is None


class Broken(Generator):
    """Sample 5 is not finite, though all weights are."""

    def generate(self, indices: Tensor, seed: int, shape: tuple[int, int, int]) -> Tensor:
        latent = super().generate(indices, seed, shape)
        return torch.where((indices == 5).view(-1, 1, 1, 1), torch.nan, latent)


def test_latents_that_are_not_finite_are_refused() -> None:
    model = generating()
    model.exports["generate"] = Broken()
    with pytest.raises(NumericError, match="generated latent is not finite"):
        evaluate(model, {"g": evaluator()}, HELD_OUT, TRAIN)


def test_several_networks_are_measured_in_one_pass() -> None:
    def measured(network: object) -> Results:
        table = {"network": network, "weights": "random", "resize": 32, "allow_fewer": True}
        metrics = {"metrics": ("frechet", "kernel")}
        return evaluate(darker, {"fd": Frechet(FrechetConfig.model_validate({**table, **metrics}))}, HELD_OUT)

    darker, other = toy_tokenizer(), "timm:test_efficientnet"
    with torch.no_grad():
        darker.encoder.scale.fill_(0.7)
    both = measured([SMALL, other])
    names = {SMALL: "random_test_resnet", other: "random_test_efficientnet"}
    assert list(both) == [f"{kind}_{name}" for name in names.values() for kind in ("fd", "kd")]
    for network, name in names.items():
        alone = measured(network)
        for kind in ("fd", "kd"):
            one, single = both[f"{kind}_{name}"], alone[f"{kind}_random"]
            assert {**single, "value": one["value"]} == one
            assert one["value"] == pytest.approx(single["value"], rel=1e-12)
            assert network in str(one["protocol"]) and one["value"] > 0
    paired = "unbiased, without pairs of an image and its own reconstruction)"
    assert paired in str(both["kd_random_test_resnet"]["protocol"])


@pytest.mark.parametrize(
    "settings",
    [
        {"network": (SMALL, SMALL)},
        {"network": (SMALL, "timm:test_vit"), "weights": "one.safetensors"},
        {"weights": {"timm:test_vit": "one.safetensors"}},
        {"metrics": ()},
    ],
)
def test_tables_that_contradict_themselves_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        FrechetConfig.model_validate({"network": SMALL, **settings})
