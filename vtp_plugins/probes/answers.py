"""Labels of the sets that a classifier is fitted and measured on, and the score of its answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vtp_core.errors import DataError
from vtp_core.evaluation.intervals import score_of
from vtp_core.evaluation.protocol import Score
from vtp_core.features import Tally

_NAMED = 3
"""Classes that a note names."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """Labelled images of a set.

    Attributes:
        features: (n, F) float32.
        pixels: (n, P) uint8, the raw pixels.
        label: (n,) int64.
        order: (n,) int64, the rows by a hash of key and pixels: the same images for any number of ranks.
    """

    features: Tensor
    pixels: Tensor
    label: Tensor
    order: Tensor

    def sorted(self) -> Split:
        """A copy with its rows in `order`."""
        return Split(
            features=self.features[self.order],
            pixels=self.pixels[self.order],
            label=self.label[self.order],
            order=torch.arange(len(self.order)),
        )


def splits_of(evaluator: str, state: Tally) -> tuple[Split, Split]:
    """Training and held-out set of a `VectorStore`.

    Raises:
        DataError: The training set has labels of fewer than two classes, or the held-out set none.
    """
    found = []
    for split in ("train", "held_out"):
        rows = {kind: state.rows[f"{split}.{kind}"] for kind in ("features", "pixels", "label", "order")}
        found.append(Split(**{**rows, "order": torch.argsort(rows["order"], stable=True)}))
    if len(found[0].label.unique()) < 2 or not len(found[1].label):
        raise DataError(f"evaluator {evaluator}: needs labels of two classes or more in both sets")
    return found[0], found[1]


def empty_classes(held_out: Tensor, classes: Sequence[str], train: Tensor | None = None) -> list[str]:
    """Notes on classes that lack images in one of the sets, and on a held-out set of one class.

    Args:
        held_out: (n,) int64, labels.
        classes: Class names by label; may be empty.
        train: (m,) int64, labels of the training set, if something is fitted on one.
    """
    notes = []
    seen = set(held_out.unique().tolist())
    if unseen := [index for index in range(len(classes)) if index not in seen]:
        notes.append(
            f"{len(unseen)} of {len(classes)} classes have no held-out image ({_names(unseen, classes)}); "
            "the number says nothing about them"
        )
    if len(seen) == 1:
        notes.append("all held-out images are of one class: whether classes are separated is not measured")
    fitted = seen if train is None else set(train.unique().tolist())
    if unknown := sorted(seen - fitted):
        images = int(torch.isin(held_out, torch.tensor(unknown)).sum())
        notes.append(
            f"{images} of {len(held_out)} held-out images can't be right: their classes "
            f"({_names(unknown, classes)}) have no training image"
        )
    return notes


def top_1(
    predicted: Tensor,
    label: Tensor,
    trivial: Mapping[str, Tensor | float],
    *,
    also: Mapping[str, float] | None = None,
    notes: Sequence[str] = (),
) -> Score:
    """Accuracy of predictions, compared with the largest class and further trivial answers.

    Args:
        predicted: (n,) int64.
        label: (n,) int64, the true classes.
        trivial: Name -> predictions (n,) int64, or an expected accuracy.
        also: Further numbers.
        notes: `Score.notes`.
    """
    largest = torch.bincount(label).argmax()
    return score_of(
        predicted == label,
        {
            "largest class": label == largest,
            **{n: t == label if isinstance(t, Tensor) else t for n, t in trivial.items()},
        },
        also={
            "majority_class": float((label == largest).double().mean()),
            "per_class": per_class_accuracy(predicted, label),
            **(also or {}),
        },
        notes=notes,
    )


def per_class_accuracy(predicted: Tensor, label: Tensor) -> float:
    """Mean of the classes' accuracies, over classes that occur; 1 / classes by chance."""
    right = (predicted == label).double()
    return float(torch.stack([right[label == c].mean() for c in torch.bincount(label).nonzero()]).mean())


def _names(labels: Sequence[int], classes: Sequence[str]) -> str:
    names = [classes[label] if label < len(classes) else str(label) for label in labels[:_NAMED]]
    return ", ".join(names) + (", ..." if len(labels) > _NAMED else "")
