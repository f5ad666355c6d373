"""`linear_probe` and `knn` against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from tests.core.evaluation_sets import ArraySet, ArraySource, drawn_set
from tests.core.toy_tokenizer import toy_tokenizer
from vtp_core.errors import DataError
from vtp_core.evaluation.runner import evaluate
from vtp_plugins.evaluate_knn.config import KnnConfig
from vtp_plugins.evaluate_knn.evaluator import Knn
from vtp_plugins.evaluate_knn.metric import knn_predict
from vtp_plugins.evaluate_linear_probe.config import LinearProbeConfig
from vtp_plugins.evaluate_linear_probe.evaluator import LinearProbe
from vtp_plugins.evaluate_linear_probe.metric import fit, probe, rotate, standardise


def blobs(n: int, width: int, classes: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    label = torch.randint(0, classes, (n,), generator=g)
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    return centres[label] + 1.5 * torch.randn(n, width, generator=g, dtype=torch.float64), label


def test_fit_is_scikit_learns_optimum() -> None:
    x, label = blobs(120, 7, 4, seed=0)
    strength = 0.02
    weight, bias = fit(x, label, 4, strength)
    # scikit-learn minimises C * sum of losses + |w|^2 / 2, so C = 1 / (n * strength).
    theirs = LogisticRegression(C=1 / (len(x) * strength), tol=1e-10, max_iter=5000).fit(x, label)
    np.testing.assert_allclose(weight.numpy(), theirs.coef_, atol=2e-4)
    # The biases are known up to a constant.
    np.testing.assert_allclose(
        (bias - bias.mean()).numpy(), theirs.intercept_ - theirs.intercept_.mean(), atol=2e-4
    )


def test_fit_is_stationary() -> None:
    x, label = blobs(60, 5, 3, seed=1)
    weight, bias = (v.requires_grad_() for v in fit(x, label, 3, 0.1))
    loss = torch.nn.functional.cross_entropy(x @ weight.T + bias, label) + 0.05 * weight.square().sum()
    gradients = torch.autograd.grad(loss, (weight, bias))
    assert max(float(g.abs().max()) for g in gradients) < 1e-5


def test_rotation_changes_no_prediction() -> None:
    x, label = blobs(30, 80, 3, seed=2)
    test, _ = blobs(20, 80, 3, seed=3)
    a, b = standardise(x, test)
    short_a, short_b = rotate(a, b)
    assert short_a.shape[1] <= 30
    torch.testing.assert_close(short_a @ short_a.T, a @ a.T, atol=1e-9, rtol=0)
    logits = []
    for train, held in ((a, b), (short_a, short_b)):
        weight, bias = fit(train, label, 3, 0.05)
        logits.append(held @ weight.T + bias)
    torch.testing.assert_close(logits[0], logits[1], atol=1e-4, rtol=0)


def test_standardise_handles_constant_features() -> None:
    x = torch.cat([torch.randn(10, 2), torch.full((10, 1), 7.0)], 1)
    a, _ = standardise(x, x)
    torch.testing.assert_close(a[:, :2].std(0, correction=0), torch.full((2,), 3**-0.5, dtype=torch.float64))
    assert not a[:, 2].any()


def test_probe_is_deterministic_and_picks_a_strength() -> None:
    x, label = blobs(100, 6, 3, seed=4)
    test, test_label = blobs(100, 6, 3, seed=5)
    first, strength = probe(x, label, test, (1e-3, 1e-1))
    second, _ = probe(x, label, test, (1e-1, 1e-3))
    assert torch.equal(first, second) and strength in (1e-3, 1e-1)
    assert (first == test_label).double().mean() > 0.6


@pytest.mark.parametrize("neighbors", [1, 5, 500])
def test_knn_is_scikit_learns(neighbors: int) -> None:
    train, label = blobs(150, 6, 4, seed=6)
    test, _ = blobs(70, 6, 4, seed=7)
    ours = knn_predict(train, label, test, neighbors=neighbors, temperature=0.1, chunk=32)
    mean = train.mean(0).numpy()
    theirs = KNeighborsClassifier(
        min(neighbors, 150), metric="cosine", algorithm="brute", weights=lambda d: np.exp(-d / 0.1)
    ).fit(train.numpy() - mean, label.numpy())
    assert np.array_equal(ours.numpy(), theirs.predict(test.numpy() - mean))


def test_evaluators_read_colours_above_chance() -> None:
    train, held_out = drawn_set("train", 60, seed=0), drawn_set("val", 40, seed=1)
    evaluators = {"a": LinearProbe(LinearProbeConfig()), "b": Knn(KnnConfig(neighbors=5))}
    results = evaluate(toy_tokenizer(), evaluators, held_out, train, rows=16)
    for name in ("linear_probe", "knn"):
        entry = results[name]
        assert entry["value"] > 0.95, entry
        assert set(entry["baselines"]) == {"raw pixels", "largest class"}
        assert 1 / 3 <= entry["also"]["majority_class"] < 0.6
        assert str(entry["protocol"]).endswith("on val, all 40; fitted on train, all 60; student weights")


def test_labels_that_say_nothing_score_near_chance() -> None:
    """The counterexample: with shuffled training labels the probes must not do well."""
    train, held_out = drawn_set("train", 90, seed=0), drawn_set("val", 90, seed=1)
    source = train.source
    assert isinstance(source, ArraySource) and source.labels is not None
    shuffled = tuple(np.random.default_rng(5).permutation(source.labels).tolist())
    noise = ArraySet(
        name="train", source=ArraySource(images=source.images, labels=shuffled, classes=source.classes)
    )
    evaluators = {"a": LinearProbe(LinearProbeConfig()), "b": Knn(KnnConfig())}
    results = evaluate(toy_tokenizer(), evaluators, held_out, noise)
    assert results["linear_probe"]["value"] < 0.75 and results["knn"]["value"] < 0.75


def test_one_class_is_refused() -> None:
    train = drawn_set("train", 10, seed=0, classes=1)
    with pytest.raises(DataError, match="two classes"):
        evaluate(toy_tokenizer(), {"a": LinearProbe(LinearProbeConfig())}, train, train)
