"""Reads held-out sets and the files of evaluators before a run: what is broken is known before step 0."""

from __future__ import annotations

from collections.abc import Mapping

from vtp_core.data.source import BadSample
from vtp_core.errors import DataError, UsageError, VtpError
from vtp_core.evaluation.evaluator import Evaluator
from vtp_core.evaluation.failures import Failures
from vtp_core.evaluation.gathering import Gathering
from vtp_core.evaluation.progress import Show, silent
from vtp_core.evaluation.sets.dataset import EvaluationSet
from vtp_core.training.ranks.rank_objects import gather_objects
from vtp_core.training.ranks.world import World

NAMED = 5
"""Broken samples that the error names."""


def check_samples(data: EvaluationSet, fields: frozenset[str], world: World, show: Show = silent) -> None:
    """Reads every sample; each rank its share, and all of them call it.

    Args:
        data: The set.
        fields: What its evaluators need.
        world: This rank.
        show: Shows the progress.

    Raises:
        DataError: Samples are broken or lack a field; names the first.
    """
    own = data.indices()[world.rank :: world.size]
    broken: list[str] = []
    with show(f"reading {data.name} once", len(data.indices())) as advance:
        for index in own:
            try:
                data.source.read(index, fields)
            except BadSample as error:
                broken.append(str(error))
            advance(world.size)
    parts = gather_objects((len(broken), broken[:NAMED]))
    if count := sum(number for number, _ in parts):
        first = [text for _, texts in parts for text in texts][:NAMED]
        more = f" and {count - len(first)} more" if count > len(first) else ""
        raise DataError(
            f"{data.name}: {count} of {len(data.indices())} evaluation samples can't be used: "
            f"{'; '.join(first)}{more}; repair or remove them: evaluations use whole sets"
        )


def load_evaluators(evaluators: Mapping[str, Evaluator], world: World, best: str | None = None) -> None:
    """Reads what evaluators need, such as weights; every rank calls it, and all raise where one fails.

    Args:
        evaluators: Name in the recipe -> evaluator.
        world: This rank.
        best: ``EVALUATOR.METRIC`` that must be measured also with what was read, or None.

    Raises:
        VtpError: The first that an evaluator raised, on any rank.
    """
    owner, _, metric = (best or "").partition(".")
    failures: dict[str, VtpError] = {}
    failed = Failures(failures)
    with Gathering(world) as ranks:
        for name, evaluator in evaluators.items():
            with failed.of(name):
                evaluator.load()
                if name == owner and metric not in evaluator.metrics:
                    raise UsageError(
                        f"evaluate.best names {metric}, which is not measured with the files of its table; "
                        f"measured are {', '.join(evaluator.metrics) or 'none'}"
                    )
        failed.agree(ranks)
    for error in failures.values():
        raise error
