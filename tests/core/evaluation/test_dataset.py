"""The batches of an evaluation: each sample once, in order."""

from __future__ import annotations

import pytest
import torch

from tests.core.data.making import DrawnSource
from vtp_core.errors import DataError
from vtp_core.evaluation.sets.dataset import evaluation_batches


def test_evaluation_reads_each_sample_once_in_order() -> None:
    batches = list(evaluation_batches(DrawnSource(count=10), 16, 4))
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert [key for batch in batches for key in batch.keys] == [f"s{index}" for index in range(10)]
    assert batches[2].image.shape == (2, 3, 16, 16) and batches[2].image.dtype == torch.uint8
    assert batches[2].text == ("caption 8", "caption 9")
    assert batches[2].label is not None and batches[2].label.tolist() == [0, 1]
    assert batches[2].rows == 2


def test_evaluation_reads_only_the_fields_asked_for() -> None:
    (batch,) = evaluation_batches(DrawnSource(count=3), 16, 4, fields=frozenset({"image"}))
    assert batch.crops["global"].shape == (3, 1, 3, 16, 16)


def test_evaluation_refuses_a_damaged_set() -> None:
    with pytest.raises(DataError, match=r"bad evaluation sample: s2: truncated"):
        list(evaluation_batches(DrawnSource(count=4, bad={2: "truncated image"}), 16, 4))
