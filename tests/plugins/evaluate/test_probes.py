"""`linear_probe` and `knn` against scikit-learn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from tests.agreement import Agreement
from tests.core.evaluation_sets import ArraySet, ArraySource, drawn_set
from tests.core.toy_tokenizer import toy_tokenizer
from vtp_core.data.source import Sample
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


def noisy(name: str, count: int, seed: int) -> ArraySet:
    """Images whose class is hard to see."""
    data = drawn_set(name, count, seed)
    noise = np.random.default_rng(seed + 100).normal(0, 90, (count, 1, 1, 3))
    images = np.clip(data.source.images + noise, 0, 255).astype(np.uint8)
    source = ArraySource(images=images, labels=data.source.labels, classes=data.source.classes)
    return ArraySet(name=name, source=source)


class Shuffled(ArraySource):
    """The samples of another source, with their keys, in another order."""

    def __init__(self, source: ArraySource, order: np.ndarray) -> None:
        labels = tuple(np.array(source.labels)[order].tolist())
        super().__init__(images=source.images[order], labels=labels, classes=source.classes)
        object.__setattr__(self, "order", order)

    def read(self, index: int, fields: frozenset[str]) -> Sample:
        return replace(super().read(index, fields), key=f"s{self.order[index]}")


@pytest.mark.agrees("logistic regression of the linear probe", "scikit-learn", 2e-4)
def test_fit_is_scikit_learns_optimum(agreement: Agreement) -> None:
    x, label = blobs(120, 7, 4, seed=0)
    strength = 0.02
    weight, bias = fit(x, label, 4, strength)
    # scikit-learn minimises C * sum of losses + |w|^2 / 2, so C = 1 / (n * strength).
    theirs = LogisticRegression(C=1 / (len(x) * strength), tol=1e-10, max_iter=5000).fit(x, label)
    agreement(weight, theirs.coef_)
    # The biases are known up to a constant.
    agreement(bias - bias.mean(), theirs.intercept_ - theirs.intercept_.mean())


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
    first, second = (probe(x, label, test, order) for order in ((1e-3, 1e-1), (1e-1, 1e-3)))
    assert torch.equal(first.predicted, second.predicted) and first.strength == second.strength
    assert first.strength in (1e-3, 1e-1)
    assert (first.predicted == test_label).double().mean() > 0.6


def test_a_selected_penalty_at_the_end_of_the_grid_is_reported() -> None:
    """Of 400 noisy rows of 60 features, a medium penalty is best: cut-off grids end where it would go on."""
    x, label = blobs(400, 60, 3, seed=8)
    x = x + 3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    grid = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1)
    chosen = probe(x, label, x, grid)
    at = grid.index(chosen.strength)
    assert 0 < at < len(grid) - 1 and chosen.edge is None
    assert probe(x, label, x, grid[at + 1 :]).edge == "smallest"
    above = probe(x, label, x, grid[:at])
    assert above.strength < chosen.strength and above.edge in ("largest", None)
    assert probe(x, label, x, (chosen.strength,)).edge is None  # nothing was selected


def test_all_penalties_alike_are_no_edge() -> None:
    """Separable classes: every penalty is right, the largest is taken, and none beyond it can be better."""
    x = torch.tensor([[0.0], [10.0]], dtype=torch.float64).repeat(20, 1)
    fitted = probe(x, torch.tensor([0, 1]).repeat(20), x, (1e-3, 1e-2, 1e-1))
    assert (fitted.strength, fitted.edge) == (1e-1, None)


def test_the_raw_pixel_baseline_depends_on_the_data_alone() -> None:
    """Two tokenizers whose features order the images differently, and two orders of the same images."""
    train, held_out = noisy("train", 90, 0), noisy("val", 60, 1)
    dim, flipped = toy_tokenizer(), toy_tokenizer()
    with torch.no_grad():
        dim.encoder.scale.fill_(0.3)
        flipped.encoder.scale.fill_(-1.0)
    again = ArraySet(name="train", source=Shuffled(train.source, np.random.default_rng(3).permutation(90)))
    measured = []
    for model, data in ((toy_tokenizer(), train), (dim, train), (flipped, train), (toy_tokenizer(), again)):
        results = evaluate(model, {"p": LinearProbe(LinearProbeConfig())}, held_out, data, rows=13)
        measured.append(results["linear_probe"])
    assert len({entry["baselines"]["raw pixels"] for entry in measured}) == 1
    assert len({entry["also"]["raw_pixels_strength"] for entry in measured}) == 1
    assert measured[0]["value"] == measured[3]["value"] and measured[0]["interval"] == measured[3]["interval"]
    assert 1 / 3 < measured[0]["baselines"]["raw pixels"] < 0.95  # a split could change it


def test_the_edge_is_a_note_of_the_number() -> None:
    train, held_out = noisy("train", 90, 0), noisy("val", 60, 1)
    config = LinearProbeConfig(strengths=(1e-4, 10.0, 100.0))
    entry = evaluate(toy_tokenizer(), {"p": LinearProbe(config)}, held_out, train)["linear_probe"]
    ends = [note for note in entry["notes"] if "is the smallest one tried" in note]
    assert (
        len(ends) == (entry["also"]["strength"] == 1e-4) + (entry["also"]["raw_pixels_strength"] == 1e-4) > 0
    )
    assert "extend `strengths`" in ends[0]


@pytest.mark.agrees("weighted k nearest neighbours: classes", "scikit-learn", 0)
@pytest.mark.parametrize("neighbors", [1, 5, 500])
def test_knn_is_scikit_learns(neighbors: int, agreement: Agreement) -> None:
    train, label = blobs(150, 6, 4, seed=6)
    test, _ = blobs(70, 6, 4, seed=7)
    ours = knn_predict(train, label, test, neighbors=neighbors, temperature=0.1, chunk=32)
    mean = train.mean(0).numpy()
    theirs = KNeighborsClassifier(
        min(neighbors, 150), metric="cosine", algorithm="brute", weights=lambda d: np.exp(-d / 0.1)
    ).fit(train.numpy() - mean, label.numpy())
    agreement(ours, theirs.predict(test.numpy() - mean))


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


PROBES = {"linear_probe": LinearProbe(LinearProbeConfig()), "knn": Knn(KnnConfig())}


@pytest.mark.parametrize("name", PROBES)
def test_one_class_is_refused(name: str) -> None:
    one, three = drawn_set("train", 10, seed=0, classes=1), drawn_set("train", 10, seed=0)
    bare = ArraySet(name="val", source=ArraySource(images=one.source.images, labels=(0,) * 10))
    many = ArraySet(name="train", source=ArraySource(images=three.source.images, labels=three.source.labels))
    for held_out, train in ((one, one), (many, bare)):
        with pytest.raises(DataError, match=f"^evaluator {name}: needs labels of two classes or more"):
            evaluate(toy_tokenizer(), {name: PROBES[name]}, held_out, train)
    entry = evaluate(toy_tokenizer(), {name: PROBES[name]}, bare, many)[name]
    assert entry["notes"][0].startswith("all held-out images are of one class")
    assert entry["verdict"] != "better"


@pytest.mark.parametrize("name", PROBES)
def test_classes_without_an_image_are_named(name: str) -> None:
    """Blue has no training image, and of a fourth class there is no image at all."""
    train, held_out = drawn_set("train", 60, seed=0), drawn_set("val", 40, seed=1)
    classes = ("red", "green", "blue", "black")
    kept = np.array(train.source.labels) != 2
    few = ArraySource(train.source.images[kept], labels=tuple(np.array(train.source.labels)[kept].tolist()))
    few = replace(few, classes=classes)
    blue = held_out.source.labels.count(2)
    sets = [ArraySet(name="s", source=replace(s, classes=classes)) for s in (held_out.source, few)]
    entry = evaluate(toy_tokenizer(), {name: PROBES[name]}, *sets)[name]
    assert entry["notes"][:2] == [
        "1 of 4 classes have no held-out image (black); the number says nothing about them",
        f"{blue} of 40 held-out images can't be right: their classes (blue) have no training image",
    ]
    assert entry["value"] == pytest.approx(1 - blue / 40)
    whole = evaluate(toy_tokenizer(), {name: PROBES[name]}, held_out, train)[name]
    assert not [note for note in whole["notes"] if "classes" in note]


def test_a_label_without_a_name_is_refused() -> None:
    train, held_out = drawn_set("train", 30, seed=0), drawn_set("val", 20, seed=1)
    two = ArraySet(name="train", source=replace(train.source, classes=("red", "green")))
    with pytest.raises(
        DataError, match=r"^train: sample s\d+ has the label 2, and the source names 2 classes"
    ):
        evaluate(toy_tokenizer(), PROBES, held_out, two)


def test_named_protocols_and_todays_default() -> None:
    readings = ("cls_patches", "last_layer", "latent", "latent_map")
    protocols = {reading: LinearProbe(LinearProbeConfig(features=reading)).protocol for reading in readings}
    names = {reading: protocol.partition(" ")[0] for reading, protocol in protocols.items()}
    assert names == {
        "cls_patches": "linear-probe-v2",
        "last_layer": "probe-last-layer-v1",
        "latent": "probe-latent-mean-v1",
        "latent_map": "probe-latent-grid-v1",
    }
    train, held_out = noisy("train", 90, 0), noisy("val", 60, 1)
    today, named = (
        evaluate(toy_tokenizer(), {"p": LinearProbe(config)}, held_out, train)["linear_probe"]
        for config in (LinearProbeConfig(), LinearProbeConfig(features="last_layer"))
    )
    assert (today["value"], today["interval"]) == (named["value"], named["interval"])


def test_neighbours_of_equal_images_do_not_depend_on_their_order() -> None:
    """Each training image is there twice under two labels: which of the equally near ones votes is fixed."""
    train, held_out = noisy("train", 40, 0), noisy("val", 30, 1)
    images = np.repeat(train.source.images, 2, axis=0)
    labels = tuple(label for one in train.source.labels for label in (one, (one + 1) % 3))
    source = ArraySource(images, labels=labels, classes=train.source.classes)
    values = set()
    for seed in range(4):
        data = ArraySet(name="t", source=Shuffled(source, np.random.default_rng(seed).permutation(80)))
        values.add(
            evaluate(toy_tokenizer(), {"k": Knn(KnnConfig(neighbors=3))}, held_out, data)["knn"]["value"]
        )
    assert len(values) == 1
