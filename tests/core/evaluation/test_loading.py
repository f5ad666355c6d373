"""Evaluators read their files before step 0: all ranks go on, or none."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.core.evaluation.generates import GeneratedMean, GeneratedMeanConfig
from vtp_core.errors import DataError, UsageError
from vtp_core.evaluation.checking import load_evaluators
from vtp_core.testing.ranks import run_processes
from vtp_core.training.ranks.world import World


class Loads(GeneratedMean):
    """Raises what it is given where it reads its files."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__(GeneratedMeanConfig())
        self.error, self.loaded = error, False

    def load(self) -> None:
        if self.error is not None:
            raise self.error
        self.loaded = True


def test_the_first_failure_is_raised_with_its_class_and_evaluator() -> None:
    evaluators = {"a": Loads(), "b": Loads(DataError("no file")), "c": Loads(UsageError("no weights"))}
    with pytest.raises(DataError, match=r"^evaluator b: no file$"):
        load_evaluators(evaluators, World())
    assert evaluators["a"].loaded
    load_evaluators({"a": Loads()}, World())


def reasons(world: World) -> dict[str, Tensor]:
    error = UsageError("no weights on this node") if world.rank == 1 else None
    with pytest.raises(UsageError) as caught:
        load_evaluators({"a": Loads(), "b": Loads(error)}, world)
    return {"text": torch.tensor(list(str(caught.value).encode()))}


@pytest.mark.slow
@pytest.mark.distributed
def test_weights_that_one_rank_lacks_end_all_ranks() -> None:
    for found in run_processes(2, reasons):
        assert bytes(found["text"].tolist()).decode() == "evaluator b: no weights on this node"
