"""Evaluators that fail are named, on any rank, and the others' numbers stay."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.core.evaluation.test_runner import Count
from tests.core.evaluation_sets import ArraySet, ArraySource, drawn_set
from tests.core.toy_tokenizer import toy_tokenizer
from vtp_core.data.source import BadSample, Sample
from vtp_core.errors import DataError, NumericError, VtpError
from vtp_core.evaluation.checking import check_samples
from vtp_core.evaluation.evaluator import Observation
from vtp_core.evaluation.failures import reason
from vtp_core.evaluation.protocol import Score
from vtp_core.evaluation.runner import evaluate
from vtp_core.evaluation.sets.dataset import EvaluationSet
from vtp_core.features import Tally
from vtp_core.testing.ranks import run_processes
from vtp_core.tokenizer import Tokenizer
from vtp_core.training.ranks.world import World


class Fails(Count):
    """Fails at one place, on every rank or for one sample."""

    def __init__(self, at: str, error: Exception, key: str = "") -> None:
        super().__init__()
        self.at, self.error, self.key = at, error, key

    def _maybe(self, at: str) -> None:
        if at == self.at:
            raise self.error

    def load(self) -> None:
        self._maybe("load")

    def begin(self, model: Tokenizer, classes: tuple[str, ...]) -> None:  # type: ignore[override]
        self._maybe("begin")

    def update(self, seen: Observation) -> None:
        super().update(seen)
        if self.key in ("", *seen.batch.keys):
            self._maybe("update")

    def state(self) -> Tally:
        self._maybe("state")
        return super().state()

    def compute(self, state: Tally) -> Mapping[str, Score]:
        self._maybe("compute")
        return super().compute(state)


ERRORS = (DataError("needs captions"), NumericError("is nan"), ValueError("a bug"), KeyError("label"))


@pytest.mark.parametrize("at", ["load", "begin", "update", "state", "compute"])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_the_others_are_measured(at: str, error: Exception) -> None:
    evaluators = {"bad": Fails(at, error), "good": Count()}
    failures: dict[str, VtpError] = {}
    results = evaluate(toy_tokenizer(), evaluators, drawn_set("val", 7, 0), rows=3, failures=failures)
    assert results["images"]["value"] == 7 and results["images"]["evaluator"] == "good"
    assert list(results) == ["images"] and list(failures) == ["bad"]
    assert str(failures["bad"]).startswith("evaluator bad: ")
    known = isinstance(error, VtpError)
    assert type(failures["bad"]) is (type(error) if known else VtpError)
    assert reason("bad", failures["bad"]) == (str(error) if known else f"{type(error).__name__}: {error}")
    with pytest.raises(type(error)):
        evaluate(toy_tokenizer(), evaluators, drawn_set("val", 7, 0), rows=3)


def test_what_can_not_run_is_left_out_with_its_reason() -> None:
    class NeedsText(Count):
        fields = frozenset({"text"})

    class Unfit(Count):
        def why_not(self, held_out: EvaluationSet | None, train: EvaluationSet | None) -> str | None:
            return "no class names"

    source = ArraySource(images=np.zeros((4, 16, 16, 3), dtype=np.uint8))
    failures: dict[str, VtpError] = {}
    evaluators = {"text": NeedsText(), "unfit": Unfit(), "good": Count()}
    results = evaluate(toy_tokenizer(), evaluators, ArraySet(name="v", source=source), failures=failures)
    assert results["images"]["value"] == 4
    assert [reason(name, error).partition(";")[0] for name, error in failures.items()] == [
        "v has no text", "no class names"
    ]  # fmt: skip


class Broken(ArraySource):
    """Sample 5 can't be read."""

    def read(self, index: int, fields: frozenset[str]) -> Sample:
        if index == 5:
            raise BadSample("s5", "truncated image")
        return super().read(index, fields)


def broken_set() -> EvaluationSet:
    return EvaluationSet(name="val", source=Broken(images=np.zeros((8, 16, 16, 3), dtype=np.uint8)))


def test_a_set_that_breaks_takes_its_own_evaluators_alone() -> None:
    class NoData(Count):
        uses_held_out = False

    failures: dict[str, VtpError] = {}
    evaluators = {"reads": Count(), "reads_not": NoData()}
    results = evaluate(toy_tokenizer(), evaluators, broken_set(), rows=2, failures=failures)
    assert results["images"]["evaluator"] == "reads_not"
    assert isinstance(failures["reads"], DataError) and "s5: truncated image" in str(failures["reads"])


def test_a_broken_sample_is_named_before_a_run() -> None:
    with pytest.raises(DataError, match="val: 1 of 8 evaluation samples can't be used: s5: trunc"):
        check_samples(broken_set(), frozenset({"image"}), World())
    check_samples(drawn_set("val", 6, 0), frozenset({"image", "text"}), World())


def on_ranks(world: World) -> dict[str, Tensor]:
    failures: dict[str, VtpError] = {}
    evaluators = {
        "one_rank": Fails("update", ValueError("a bug"), key="s1"),  # a sample of rank 1
        "first": Fails("compute", DataError("needs captions")),
        "begin": Fails("begin", DataError("no names")) if world.rank else Count(value=9),
        "good": Count(),
    }
    results = evaluate(
        toy_tokenizer(), evaluators, drawn_set("val", 5, 0), rows=2, world=world, failures=failures
    )
    assert {name: (type(error).__name__, reason(name, error)) for name, error in failures.items()} == {
        "one_rank": ("VtpError", "ValueError: a bug"),
        "first": ("DataError", "needs captions"),
        "begin": ("DataError", "no names"),
    }
    with pytest.raises(DataError, match="1 of 8 evaluation samples can't be used: s5"):
        check_samples(broken_set(), frozenset({"image"}), world)
    return {name: torch.tensor(entry["value"]) for name, entry in results.items()}


@pytest.mark.distributed
def test_ranks_agree_on_who_failed() -> None:
    for found in run_processes(2, on_ranks):
        assert {name: value.item() for name, value in found.items()} == {"images": 5.0}
