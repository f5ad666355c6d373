"""The results of a run: artefact, evaluation and report."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Literal, TypeVar

import torch

from vtp_core.artefact.assembly import assemble, load_training_state
from vtp_core.artefact.card import write_card
from vtp_core.artefact.from_recipe import artefact_config
from vtp_core.data.opening import Sources
from vtp_core.errors import NumericError, Preempted, UsageError, VtpError, known_error
from vtp_core.evaluation.checking import check_samples, load_evaluators
from vtp_core.evaluation.failures import reason
from vtp_core.evaluation.history import find_metric, summary
from vtp_core.evaluation.latents import statistics_samples
from vtp_core.evaluation.opening import build_evaluators, open_recipe_sets
from vtp_core.evaluation.progress import Show, silent
from vtp_core.evaluation.runner import Results, evaluate, why_not
from vtp_core.plugins import Plugins
from vtp_core.plugins.component import one_line
from vtp_core.recipe.tables.recipe import Recipe
from vtp_core.report.card import training_of
from vtp_core.run.progress import show_pass
from vtp_core.run.report import build_report
from vtp_core.run.setup.generators import with_class_names
from vtp_core.run.setup.opening import Run
from vtp_core.run.setup.statistics import with_statistics
from vtp_core.tokenizer import Tokenizer
from vtp_core.tokenizer.checks import broken_weights
from vtp_core.training.ranks.rank_objects import on_first_rank
from vtp_core.training.ranks.world import World
from vtp_core.training.saving.best import improves, write_best
from vtp_core.training.saving.folder import rotate
from vtp_core.training.saving.state import whole

_T = TypeVar("_T")

_log = logging.getLogger(__name__)


def current_tokenizer(run: Run, step: int, weights: Literal["student", "teacher"] = "student") -> Tokenizer:
    """An unsharded copy of the run's tokenizer on the run's device; every rank calls it."""
    config = artefact_config(run.recipe, run.plugins, step=step, weights=weights)
    config = with_class_names(config, run.recipe, run.sources)
    tokenizer = assemble(config, run.plugins)
    state = {name: value for name, value in run.state().items() if not name.startswith("optimizer.")}
    load_training_state(tokenizer, whole(state), weights)
    tokenizer.to(run.world.device)
    return tokenizer


def check_evaluation(
    recipe: Recipe, plugins: Plugins, sources: Sources, world: World, *, read: bool = True
) -> None:
    """Opens the evaluation's sources and checks that every evaluator can run; before step 0, on every rank.

    Args:
        recipe: The recipe.
        plugins: Where its evaluators come from.
        sources: The opened sources of the process.
        world: This rank.
        read: Whether the held-out set is read once, so that a broken sample is known now.

    Raises:
        DataError: A source is empty, or samples of the held-out set can't be used.
        UsageError: An evaluator needs what the recipe's tokenizer or data lacks, or a file that is not
            found, or ``evaluate.best`` names a metric that its evaluator doesn't declare or measure.
    """
    sets = open_recipe_sets(recipe, sources)
    evaluators = build_evaluators(recipe, plugins)
    if not recipe.evaluators:
        return
    config = artefact_config(recipe, plugins)
    try:
        with torch.device("meta"):
            tokenizer = assemble(config, plugins)
    except (NotImplementedError, RuntimeError):  # a component that needs real memory to be built
        tokenizer = assemble(config, plugins)
    if idle := sorted(recipe.evaluators.keys() - evaluators.keys()):
        _log.warning(
            "not measured, as the recipe names no held-out data (evaluate.source): %s", ", ".join(idle)
        )
    owner, _, metric = (recipe.evaluate.best or "").partition(".")
    if owner and owner not in evaluators:
        raise UsageError(f"evaluate.best: evaluator {owner} reads data; set evaluate.source to held-out data")
    for name, evaluator in evaluators.items():
        if reason := why_not(evaluator, tokenizer, *sets):
            raise UsageError(f"evaluators.{name}: {reason}; leave it out or change the data")
    if owner and metric not in (declared := evaluators[owner].metrics):
        raise UsageError(
            f"evaluate.best: evaluator {owner} declares no metric {metric!r}, so its direction is unknown; "
            f"it declares {', '.join(declared) or 'none'}"
        )
    load_evaluators(evaluators, world, recipe.evaluate.best)
    users = [evaluator for evaluator in evaluators.values() if evaluator.uses_held_out]
    if (held_out := sets[0]) is not None and users and read:
        fields = frozenset[str]().union(*(evaluator.fields_of(held_out) for evaluator in users))
        check_samples(held_out, fields, world, show_pass if world.rank == 0 else silent)


def evaluate_run(
    run: Run, step: int, tokenizer: Tokenizer | None = None, show: Show = silent
) -> tuple[Results, dict[str, VtpError]]:
    """Runs the recipe's evaluators on the present weights; all ranks call it, rank 0 writes ``eval.json``.

    Returns:
        Metric -> entry, and evaluator -> error for those that gave no number.
    """
    evaluators, failures = build_evaluators(run.recipe, run.plugins), dict[str, VtpError]()
    if not evaluators:
        return {}, {}
    held_out, train = open_recipe_sets(run.recipe, run.sources)
    results = evaluate(
        tokenizer or current_tokenizer(run, step),
        evaluators,
        held_out,
        train,
        rows=run.recipe.evaluate.rows,
        world=run.world,
        show=show,
        failures=failures,
    )
    left_out = {name: reason(name, error) for name, error in failures.items()}
    # All ranks fail together: one that went on alone would wait in the next collective.
    on_first_rank(lambda: run.folder.write_evaluation(step, results, left_out))
    return results, failures


def is_best(run: Run, step: int, results: Results) -> bool:
    """Whether ``evaluate.best`` is better than in the best checkpoint so far; every rank calls it."""
    name = run.recipe.evaluate.best
    entry = None if name is None else find_metric(results, name)
    if name is None or entry is None:
        return False
    value, higher = float(entry["value"]), bool(entry["higher_is_better"])
    return on_first_rank(lambda: improves(run.folder.checkpoints, step, name, value, higher))


def note_best(run: Run, step: int, results: Results) -> None:
    """Notes the checkpoint of a step as the best one; every rank calls it after `is_best`."""
    name = run.recipe.evaluate.best
    entry = find_metric(results, name or "")
    if name is not None and entry is not None:
        folder, value, checkpoint = run.folder.checkpoints, float(entry["value"]), f"step-{step:08d}"
        on_first_rank(lambda: write_best(folder, checkpoint, name, value))
        on_first_rank(lambda: rotate(folder, run.recipe.run.keep_checkpoints))  # the former best one may go


def finish(run: Run) -> Results:
    """Writes the artefact, evaluates it and writes the report; every rank calls it.

    Each part stands alone: where one fails, the others are still made. The artefact is written first. The
    work of rank 0 alone comes after the last collective, so that no other rank waits for it.

    Returns:
        Metric -> its entry in ``eval.json``.

    Raises:
        VtpError: What failed first: weights that are not finite, of which neither artefact nor evaluation is
            made, or a file that can't be written.
    """
    parts, first = _Parts(), run.world.rank == 0
    show: Show = show_pass if first else silent
    tokenizer = parts("the tokenizer", lambda: _final_tokenizer(run))
    results: Results | None = None
    if tokenizer is not None:
        if first:
            parts("the artefact", lambda: _write(tokenizer, run, show))
        written = parts.failure is None
        results = parts("the evaluation", lambda: _evaluate(run, tokenizer, show))
        if first and written:
            parts("the latents' statistics", lambda: _measure_statistics(run, tokenizer, show))
            parts("the model card", lambda: _write_card(tokenizer, run))
    if first:
        report = partial(build_report, run.folder.path, plugins=run.plugins, sources=run.sources, show=show)
        parts("the report", report)
    if parts.failure is not None:
        raise parts.failure
    return results or {}


class _Parts:
    """Runs the parts of the finish, and keeps what failed first; further failures are named in the log."""

    def __init__(self) -> None:
        self.failure: Exception | None = None

    def __call__(self, name: str, action: Callable[[], _T]) -> _T | None:
        """What the part returns; None if it failed."""
        try:
            return action()
        except Preempted:
            raise
        except Exception as error:  # of any kind, also from plugins: the other parts don't depend on it
            known = known_error(error) or error
            if self.failure is None:
                self.failure = known
                _log.warning("%s failed; the rest is still made", name)
            else:
                _log.warning("%s failed too: %s", name, one_line(known))
            return None


def _final_tokenizer(run: Run) -> Tokenizer:
    tokenizer = current_tokenizer(run, run.recipe.run.steps)
    _require_finite(tokenizer, run)
    return tokenizer


def _write(tokenizer: Tokenizer, run: Run, show: Show) -> None:
    with show(f"writing {run.folder.tokenizer}"):
        tokenizer.save(run.folder.tokenizer)


def _evaluate(run: Run, tokenizer: Tokenizer, show: Show) -> Results:
    step = run.recipe.run.steps
    results, failures = evaluate_run(run, step, tokenizer, show)
    if is_best(run, step, results):
        note_best(run, step, results)
    for name, error in failures.items():
        _log.warning("evaluator %s is left out: %s", name, reason(name, error))
    for error in failures.values():
        _log.info("measured: %s", summary(results) or "nothing")
        raise error
    return results


def _measure_statistics(run: Run, tokenizer: Tokenizer, show: Show) -> None:
    """Measures the latents, if the recipe asks for it, and writes the artefact again."""
    table = run.recipe.evaluate
    if count := statistics_samples(run.world.device, table.statistics_samples, table.limit):
        tokenizer.config = with_statistics(tokenizer, run.recipe, run.sources, run.plugins, count, show=show)
        tokenizer.save(run.folder.tokenizer)


def _write_card(tokenizer: Tokenizer, run: Run) -> None:
    """Writes the artefact's card again, with the numbers that were just measured."""
    assert tokenizer.config is not None
    training = training_of(run.folder.read(), tokenizer.config)
    write_card(tokenizer, tokenizer.config, run.folder.tokenizer, training)


def _require_finite(tokenizer: Tokenizer, run: Run) -> None:
    """Refuses weights that are not finite: the guard sees a bad update only at the next step's loss."""
    if ruined := broken_weights(tokenizer):
        raise NumericError(
            f"{run.folder}: {len(ruined)} of {len(tokenizer.state_dict())} tensors of the tokenizer are not "
            f"finite, the first is {ruined[0]}; no tokenizer was written. Lower [optimizer] lr or clip, and "
            "start again"
        )
