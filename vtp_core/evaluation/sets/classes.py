"""Labels of two sources, matched by the names of their classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vtp_core.batch import Batch
from vtp_core.errors import DataError
from vtp_core.evaluation.sets.dataset import EvaluationSet


def mismatch(held_out: EvaluationSet, train: EvaluationSet) -> str | None:
    """Why the labels of two sets can't be compared; None if they can, by name or, without names, by index."""
    here, there = list(held_out.source.classes), list(train.source.classes)
    if here == there:
        return None
    for one, other in ((held_out, train), (train, held_out)):
        if not one.source.classes:
            return (
                f"{other.name} names its classes and {one.name} doesn't, so that labels can't be matched; "
                "set `classes` of the source"
            )
    for data, names in ((held_out, here), (train, there)):
        if double := next((name for name in names if names.count(name) > 1), None):
            return f"{data.name} has two classes of the name {double!r}; name them apart"
    if not set(here) & set(there):
        return f"no class of {held_out.name} ({_some(here)}) is one of {train.name} ({_some(there)})"
    return None


def check_labels(data: EvaluationSet, batch: Batch) -> None:
    """Refuses labels beyond the class names of the source.

    Raises:
        DataError: Names the first such sample.
    """
    names = len(data.source.classes)
    if batch.label is None or not names or int(batch.label.max()) < names:
        return
    row = int((batch.label >= names).nonzero()[0])
    raise DataError(
        f"{data.name}: sample {batch.keys[row]} has the label {int(batch.label[row])}, and the source names "
        f"{names} classes (0 to {names - 1}); correct the label or the source's `classes`"
    )


def translation(held_out: EvaluationSet, train: EvaluationSet) -> tuple[Tensor | None, str]:
    """How labels of the training set are read where the class lists differ; `mismatch` must be None.

    Returns:
        (classes of the training set,) int64, the class in the held-out set's numbering; classes that only the
        training set has follow. None where labels mean the same. And what a protocol says of it.
    """
    here, there = list(held_out.source.classes), list(train.source.classes)
    if here == there:
        return None, ""
    alone = [name for name in there if name not in here]
    number = {name: index for index, name in enumerate([*here, *alone])}
    lacking = [name for name in here if name not in there]
    text = "classes matched by name" + (
        f", {len(lacking)} of {len(here)} not in the training set" if lacking else ""
    )
    return torch.tensor([number[name] for name in there]), text


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
