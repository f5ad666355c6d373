"""What a run leaves behind: the artefact, its measurements and the report."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from torch import nn

from vtp_core import __version__
from vtp_core.artefact.assembly import assemble, load_training_state
from vtp_core.artefact.config import ArtefactConfig, Head
from vtp_core.data.opening import open_source
from vtp_core.evaluation.dataset import EvaluationSet
from vtp_core.evaluation.latents import measure_latents
from vtp_core.evaluation.runner import Results, build_evaluators, evaluate, write_results
from vtp_core.recipe.component import ComponentConfig
from vtp_core.recipe.model import Recipe
from vtp_core.tokenizer import Tokenizer
from vtp_core.training.networks import Networks
from vtp_core.training.run import Run
from vtp_core.training.state import whole

STATISTICS_SAMPLES = 10_000
"""Training samples that the latents' statistics are measured on, at most (as the published VTP release)."""


def artefact_config(
    recipe: Recipe, networks: Networks, step: int, weights: Literal["student", "teacher"] = "student"
) -> ArtefactConfig:
    """The artefact's ``config.json`` without latent statistics."""
    heads = {
        name: Head(objective=_table(recipe.objectives[name]), exports=dict(objective.exports))
        for name, objective in networks.objectives.items()
        if objective.exports
    }
    return ArtefactConfig(
        vtp_version=__version__,
        recipe=recipe.name,
        step=step,
        weights=weights,
        encoder=_table(recipe.encoder),
        bottleneck=_table(recipe.bottleneck),
        decoder=_table(recipe.decoder),
        heads=heads,
        image_size=max(view.size for view in recipe.views.values()),
    )


def current_tokenizer(run: Run, step: int, weights: Literal["student", "teacher"] = "student") -> Tokenizer:
    """A whole, unsharded copy of the run's tokenizer on the run's device; every rank calls it."""
    tokenizer = assemble(artefact_config(run.recipe, run.networks, step, weights), run.plugins)
    load_training_state(tokenizer, whole(run.state()), weights)
    device: nn.Module = tokenizer.to(run.world.device)
    assert isinstance(device, Tokenizer)
    return device


def evaluation_sets(run: Run) -> tuple[EvaluationSet | None, EvaluationSet]:
    """The held-out set of the recipe, if it has one, and the set that probes learn from."""
    recipe, plugins = run.recipe, run.plugins
    limits, limit = recipe.data.decode, recipe.evaluate.limit
    train_table = recipe.evaluate.train_source or recipe.data.source
    train = EvaluationSet(
        name=_set_name(train_table),
        source=run.sources["default"]
        if train_table is recipe.data.source
        else open_source(train_table, limits, plugins),
        limit=limit,
        skip_bad=True,
    )
    if recipe.evaluate.source is None:
        return None, train
    held_out = recipe.evaluate.source
    return EvaluationSet(
        name=_set_name(held_out), source=open_source(held_out, limits, plugins), limit=limit
    ), train


def evaluate_run(run: Run, step: int, tokenizer: Tokenizer | None = None) -> Results:
    """Runs the recipe's evaluators on the present weights; all ranks call it, rank 0 writes ``eval.json``."""
    held_out, train = evaluation_sets(run)
    if held_out is None or not run.recipe.evaluators:
        return {}
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
    step = run.recipe.run.steps
    tokenizer = current_tokenizer(run, step)
    if run.world.rank == 0:
        _, train = evaluation_sets(run)
        limit = min(train.limit or STATISTICS_SAMPLES, STATISTICS_SAMPLES)
        statistics = replace(train, limit=limit)
        tokenizer.config = measure_latents(tokenizer, statistics, rows=run.recipe.evaluate.rows)
        tokenizer.save(run.folder / "tokenizer")
    results = evaluate_run(run, step, tokenizer)
    if run.world.rank == 0:
        from vtp_core.report import build_report

        build_report(run.folder, plugins=run.plugins)
    return results


def _table(config: ComponentConfig) -> dict[str, Any]:
    return config.model_dump(mode="json", by_alias=True)


def _set_name(table: ComponentConfig) -> str:
    split = getattr(table, "split", None)
    return f"{table.use}/{split}" if split else table.use
