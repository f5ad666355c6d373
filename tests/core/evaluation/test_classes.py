"""Labels of the training set and the held-out set are compared by the names of their classes, or refused."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from tests.core.evaluation_sets import ArraySet, ArraySource
from tests.core.toy_tokenizer import toy_tokenizer
from vtp_core.errors import UsageError
from vtp_core.evaluation.runner import evaluate, why_not
from vtp_plugins.evaluate_knn.config import KnnConfig
from vtp_plugins.evaluate_knn.evaluator import Knn
from vtp_plugins.evaluate_linear_probe.config import LinearProbeConfig
from vtp_plugins.evaluate_linear_probe.evaluator import LinearProbe

COLOR = {"apple": (220, 30, 30), "bird": (30, 200, 40), "cat": (30, 40, 220), "dog": (200, 200, 30)}
PROBES = {"knn": Knn(KnnConfig(neighbors=3)), "linear_probe": LinearProbe(LinearProbeConfig())}


def colored(
    name: str, shown: Sequence[str], classes: Sequence[str], each: int, unlabeled: int = 0
) -> ArraySet:
    """Images of the colours of `shown`, labels by their place in `classes`; the first have none."""
    rng = np.random.default_rng(each)
    names = [class_ for class_ in shown for _ in range(each)]
    images = [np.array(COLOR[class_]) + rng.integers(-25, 26, (16, 16, 3)) for class_ in names]
    labels = [-1 if i < unlabeled else list(classes).index(class_) for i, class_ in enumerate(names)]
    source = ArraySource(
        images=np.stack(images).clip(0, 255).astype(np.uint8), labels=tuple(labels), classes=tuple(classes)
    )
    return ArraySet(name=name, source=source)


def test_a_class_that_only_one_set_has_shifts_no_label() -> None:
    """Train {apple, bird, cat}, held out {bird, cat}: by index every answer would be wrong."""
    three, two = ("apple", "bird", "cat"), ("bird", "cat")
    results = evaluate(
        toy_tokenizer(), PROBES, colored("val", two, two, 6), colored("train", three, three, 9)
    )
    for name in PROBES:
        assert results[name]["value"] == 1.0 and results[name]["baselines"]["raw pixels"] == 1.0
        assert "; classes matched by name; student weights" in str(results[name]["protocol"])
    results = evaluate(
        toy_tokenizer(), PROBES, colored("val", three, three, 6), colored("train", two, two, 9)
    )
    for name in PROBES:
        assert results[name]["value"] == pytest.approx(2 / 3)  # apples can't be known
        assert "classes matched by name, 1 of 3 not in the training set" in str(results[name]["protocol"])


def test_the_numbering_of_the_training_set_changes_no_number() -> None:
    names = ("apple", "bird", "cat", "dog")
    held_out = colored("val", names, names, 5)
    numbers = []
    for order in (names, names[::-1], ("cat", "dog", "apple", "bird")):
        train = colored("train", names, order, 8, unlabeled=2)
        results = evaluate(toy_tokenizer(), PROBES, held_out, train)
        numbers.append([results[name]["value"] for name in PROBES])
        assert ("matched by name" in str(results["knn"]["protocol"])) == (order != names)
    assert numbers[0] == numbers[1] == numbers[2]


@pytest.mark.parametrize(
    ("here", "there", "reason"),
    [
        (("bird", "cat"), (), "val names its classes and train doesn't"),
        ((), ("bird", "cat"), "train names its classes and val doesn't"),
        (("apple", "bird"), ("cat", "dog"), r"no class of val \(apple, bird\) is one of train \(cat, dog\)"),
        (("apple", "bird"), ("bird", "bird"), "train has two classes of the name 'bird'"),
    ],
)
def test_labels_that_can_not_be_matched_are_refused(
    here: Sequence[str], there: Sequence[str], reason: str
) -> None:
    images = np.zeros((4, 16, 16, 3), dtype=np.uint8)
    held_out, train = (
        ArraySet(name=name, source=ArraySource(images=images, labels=(0, 1, 0, 1), classes=tuple(classes)))
        for name, classes in (("val", here), ("train", there))
    )
    with pytest.raises(UsageError, match=f"evaluator knn: {reason}"):
        evaluate(toy_tokenizer(), {"knn": PROBES["knn"]}, held_out, train)


def test_without_names_labels_are_indices() -> None:
    two = ("bird", "cat")
    held_out, train = (
        ArraySet(name=name, source=ArraySource(images=data.source.images, labels=data.source.labels))
        for name, data in (("val", colored("val", two, two, 6)), ("train", colored("train", two, two, 9)))
    )
    assert why_not(PROBES["knn"], toy_tokenizer(), held_out, train) is None
    entry = evaluate(toy_tokenizer(), PROBES, held_out, train)["knn"]
    assert entry["value"] == 1.0 and "by name" not in str(entry["protocol"])
