"""The results of a run: artefact, evaluation and report."""

from __future__ import annotations

from typing import Literal

import torch

from vtp_core.artefact.assembly import assemble, load_training_state
from vtp_core.artefact.from_recipe import artefact_config
from vtp_core.data.opening import Sources
from vtp_core.errors import NumericError, UsageError, VtpError
from vtp_core.evaluation.history import find_metric
from vtp_core.evaluation.latents import measure_latents, statistics_samples
from vtp_core.evaluation.opening import build_evaluators, open_recipe_sets, open_set
from vtp_core.evaluation.progress import Show, silent
from vtp_core.evaluation.runner import Results, evaluate, why_not
from vtp_core.plugins import Plugins
from vtp_core.recipe.tables.recipe import Recipe
from vtp_core.run.opening import Run
from vtp_core.run.progress import show_pass
from vtp_core.run.report import build_report
from vtp_core.tokenizer import Tokenizer
from vtp_core.training.ranks.rank_objects import on_first_rank
from vtp_core.training.saving.best import improves, write_best
from vtp_core.training.saving.state import whole


def current_tokenizer(run: Run, step: int, weights: Literal["student", "teacher"] = "student") -> Tokenizer:
    """An unsharded copy of the run's tokenizer on the run's device; every rank calls it."""
    config = artefact_config(run.recipe, run.plugins, step=step, weights=weights)
    tokenizer = assemble(config, run.plugins)
    state = {name: value for name, value in run.state().items() if not name.startswith("optimizer.")}
    load_training_state(tokenizer, whole(state), weights)
    tokenizer.to(run.world.device)
    return tokenizer


def check_evaluation(recipe: Recipe, plugins: Plugins, sources: Sources) -> None:
    """Opens the evaluation's sources and checks that every evaluator can run; before step 0.

    Raises:
        DataError: A source is empty.
        UsageError: An evaluator needs what the recipe's tokenizer or data lacks, or ``evaluate.best`` names
            a metric that its evaluator doesn't declare.
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


def evaluate_run(run: Run, step: int, tokenizer: Tokenizer | None = None, show: Show = silent) -> Results:
    """Runs the recipe's evaluators on the present weights; all ranks call it, rank 0 writes ``eval.json``."""
    evaluators = build_evaluators(run.recipe, run.plugins)
    if not evaluators:
        return {}
    held_out, train = open_recipe_sets(run.recipe, run.sources)
    results = evaluate(
        tokenizer or current_tokenizer(run, step),
        evaluators,
        held_out,
        train,
        rows=run.recipe.evaluate.rows,
        world=run.world,
        show=show,
    )
    if run.world.rank == 0:
        run.folder.write_evaluation(step, results)
    return results


def is_best(run: Run, step: int, results: Results) -> bool:
    """Whether ``evaluate.best`` is better than in the best checkpoint so far; every rank calls it."""
    name = run.recipe.evaluate.best
    entry = None if name is None else find_metric(results, name)
    if name is None or entry is None:
        return False
    value, higher = float(entry["value"]), bool(entry["higher_is_better"])
    return on_first_rank(lambda: improves(run.folder.checkpoints, step, name, value, higher))


def note_best(run: Run, step: int, results: Results) -> None:
    """Notes the checkpoint of a step as the best one; rank 0 calls it after `is_best`."""
    name = run.recipe.evaluate.best
    entry = find_metric(results, name or "")
    if name is not None and entry is not None:
        write_best(run.folder.checkpoints, f"step-{step:08d}", name, float(entry["value"]))


def finish(run: Run) -> Results:
    """Writes the artefact, evaluates it and writes the report; every rank calls it.

    The artefact is written first and the report in any case, so that a failing evaluation loses no training.
    The work of rank 0 alone comes after the last collective, so that no other rank waits for it.

    Returns:
        Metric -> its entry in ``eval.json``.

    Raises:
        NumericError: Weights are not finite; nothing is written.
        VtpError: The evaluation failed; artefact and report are written.
    """
    recipe = run.recipe
    failure: VtpError | None = None
    results: Results = {}
    show: Show = show_pass if run.world.rank == 0 else silent
    tokenizer = current_tokenizer(run, recipe.run.steps)
    _require_finite(tokenizer, run)
    if run.world.rank == 0:
        with show(f"writing {run.folder.tokenizer}"):
            tokenizer.save(run.folder.tokenizer)
    try:
        results = evaluate_run(run, recipe.run.steps, tokenizer, show)
        if is_best(run, recipe.run.steps, results) and run.world.rank == 0:
            note_best(run, recipe.run.steps, results)
    except VtpError as error:
        failure = error
    if run.world.rank == 0:
        table = recipe.evaluate
        if count := statistics_samples(run.world.device, table.statistics_samples, table.limit):
            data = open_set(recipe.data.source, run.sources, count, skip_bad=True)
            tokenizer.config = measure_latents(tokenizer, data, rows=table.rows, show=show)
            tokenizer.save(run.folder.tokenizer)
        build_report(run.folder.path, plugins=run.plugins, sources=run.sources, show=show)
    if failure is not None:
        raise failure
    return results


def _require_finite(tokenizer: Tokenizer, run: Run) -> None:
    """Refuses weights that are not finite: the guard sees a bad update only at the next step's loss."""
    state = tokenizer.state_dict()
    if ruined := [name for name, value in state.items() if not bool(value.isfinite().all())]:
        raise NumericError(
            f"{run.folder}: {len(ruined)} of {len(state)} tensors of the tokenizer are not finite, the first "
            f"is {ruined[0]}; no tokenizer was written. Lower [optimizer] lr or clip, and start again"
        )
