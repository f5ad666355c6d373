"""Runs evaluators over a held-out set and a training set."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist

from vtp_core.config import ComponentConfig
from vtp_core.errors import NumericError, UsageError
from vtp_core.evaluation.dataset import EvaluationSet
from vtp_core.evaluation.evaluator import Evaluator, Observation, Split
from vtp_core.evaluation.protocol import EvaluationProtocol, Metric
from vtp_core.features import Tally
from vtp_core.plugins import Plugins
from vtp_core.tokenizer import Tokenizer
from vtp_core.training.ranks.world import World

Results = dict[str, dict[str, object]]


def build_evaluators(tables: Mapping[str, ComponentConfig], plugins: Plugins) -> dict[str, Evaluator]:
    """The evaluators of a recipe's ``[evaluators.NAME]`` tables."""
    return {name: plugins.find("evaluator", table.use).load_target()(table) for name, table in tables.items()}


def why_not(
    evaluator: Evaluator, model: Tokenizer, held_out: EvaluationSet, train: EvaluationSet | None
) -> str | None:
    """What this evaluator lacks, or None if it can run."""
    if lacking := sorted(evaluator.requires - model.capabilities):
        return f"the tokenizer has no {', '.join(lacking)}"
    if lacking := sorted(evaluator.fields - held_out.source.fields):
        return f"{held_out.name} has no {', '.join(lacking)}"
    if not evaluator.uses_train:
        return None
    if train is None:
        return "it needs a training set"
    if lacking := sorted(evaluator.fields - train.source.fields):
        return f"{train.name} has no {', '.join(lacking)}"
    return None


@torch.no_grad()
def evaluate(
    model: Tokenizer,
    evaluators: Mapping[str, Evaluator],
    held_out: EvaluationSet,
    train: EvaluationSet | None = None,
    *,
    rows: int = 64,
    world: World | None = None,
) -> Results:
    """Measures a tokenizer; it comes back in the mode it was in.

    Each rank reads its share of the samples and needs the whole model, not shards of it: ranks may run
    different numbers of batches.

    Args:
        model: A tokenizer with a `config`.
        evaluators: Name in the recipe -> evaluator.
        held_out: The set to measure on.
        train: The set that probes are fitted on.
        rows: Samples at a time.
        world: The ranks that share the work; None: this process alone.

    Returns:
        Metric -> what `Score.entry` returns. A metric that two evaluators have is ``<evaluator>.<metric>``
        the second time.

    Raises:
        UsageError: An evaluator asks for what the tokenizer or the data lacks.
        NumericError: A metric is not finite.
    """
    world = world if world is not None else World()
    if model.config is None:
        raise UsageError("evaluate: the tokenizer has no config, so no image size; pass config=")
    for name, evaluator in evaluators.items():
        if reason := why_not(evaluator, model, held_out, train):
            raise UsageError(f"evaluator {name}: {reason}; leave it out or change the data")
    size = model.config.image_size
    counts: dict[Split, int] = {"train": 0, "held_out": 0}
    with _eval_mode(model):
        for evaluator in evaluators.values():
            evaluator.begin(model, tuple(held_out.source.classes))
        sets: list[tuple[Split, EvaluationSet]] = [("held_out", held_out)]
        if train is not None and any(evaluator.uses_train for evaluator in evaluators.values()):
            sets.insert(0, ("train", train))
        for split, data in sets:
            takers = [item for item in evaluators.values() if split == "held_out" or item.uses_train]
            fields = frozenset({"image"}).union(*(item.fields for item in takers))
            for batch in data.batches(size, rows, world.rank, world.size, fields):
                counts[split] += len(batch)
                seen = Observation(model, batch.to(model.device), split)
                for evaluator in takers:
                    evaluator.update(seen)
        totals = world.sum(torch.tensor([counts["train"], counts["held_out"]], device=world.device)).tolist()
        results: Results = {}
        for name, evaluator in evaluators.items():
            protocol = EvaluationProtocol(
                name=evaluator.protocol,
                image_size=size,
                held_out=held_out.facts(totals[1]),
                train=train.facts(totals[0]) if evaluator.uses_train and train is not None else None,
                weights=model.config.weights,
            )
            for metric, score in evaluator.compute(reduce(evaluator.state(), world)).items():
                if not math.isfinite(score.value):
                    raise NumericError(f"evaluator {name}: {metric} is {score.value}; check the weights")
                score = replace(score, baseline=_finite(score.baseline))
                about = evaluator.metrics.get(metric, Metric(title=metric.replace("_", " ")))
                key = f"{name}.{metric}" if metric in results else metric
                results[key] = score.entry(about, protocol)
    return results


def reduce(state: Tally, world: World) -> Tally:
    """The state of all ranks: sums added, rows concatenated."""
    if world.size == 1:
        return state
    states: list[Any] = [None] * world.size
    dist.all_gather_object(states, state)
    return Tally(
        sums={name: torch.stack([other.sums[name] for other in states]).sum(0) for name in state.sums},
        rows={name: torch.cat([other.rows[name] for other in states]) for name in state.rows},
    )


def _finite(number: float | None) -> float | None:
    return number if number is not None and math.isfinite(number) else None


@contextmanager
def _eval_mode(model: Tokenizer) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
