"""What a run leaves behind: the artefact, its measurements and the report."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from vtp_core.artefact.assembly import assemble, load_training_state
from vtp_core.artefact.from_recipe import artefact_config
from vtp_core.evaluation.latents import measure_latents
from vtp_core.evaluation.opening import open_recipe_sets, open_set
from vtp_core.evaluation.runner import Results, build_evaluators, evaluate, write_results
from vtp_core.tokenizer import Tokenizer
from vtp_core.training.run import Run
from vtp_core.training.state import whole

STATISTICS_SAMPLES = 10_000
"""Training samples that the latents' statistics are measured on, at most (as the published VTP release)."""


def current_tokenizer(run: Run, step: int, weights: Literal["student", "teacher"] = "student") -> Tokenizer:
    """A whole, unsharded copy of the run's tokenizer on the run's device; every rank calls it."""
    config = artefact_config(run.recipe, run.plugins, step=step, weights=weights)
    tokenizer = assemble(config, run.plugins)
    load_training_state(tokenizer, whole(run.state()), weights)
    tokenizer.to(run.world.device)
    return tokenizer


def evaluate_run(run: Run, step: int, tokenizer: Tokenizer | None = None) -> Results:
    """Runs the recipe's evaluators on the present weights; all ranks call it, rank 0 writes ``eval.json``."""
    sets = open_recipe_sets(run.recipe, run.plugins)
    if sets is None or not run.recipe.evaluators:
        return {}
    held_out, train = sets
    results = evaluate(
        tokenizer or current_tokenizer(run, step),
        build_evaluators(run.recipe.evaluators, run.plugins),
        held_out,
        train,
        rows=run.recipe.evaluate.rows,
        world=run.world,
    )
    if run.world.rank == 0:
        write_results(results, run.folder / "eval.json")
    return results


def finish(run: Run) -> Results:
    """Writes the artefact, measures it and makes the report; every rank calls it.

    The artefact comes first: an evaluation that fails loses no training.

    Returns:
        Metric -> its entry in ``eval.json``.
    """
    recipe = run.recipe
    tokenizer = current_tokenizer(run, recipe.run.steps)
    if run.world.rank == 0:
        train = open_set(
            recipe.data.source, run.plugins, recipe.data.decode, recipe.evaluate.limit, skip_bad=True
        )
        statistics = replace(train, limit=min(train.limit or STATISTICS_SAMPLES, STATISTICS_SAMPLES))
        tokenizer.config = measure_latents(tokenizer, statistics, rows=recipe.evaluate.rows)
        tokenizer.save(run.folder / "tokenizer")
    results = evaluate_run(run, recipe.run.steps, tokenizer)
    if run.world.rank == 0:
        from vtp_core.report import build_report

        build_report(run.folder, plugins=run.plugins)
    return results
