"""The passes of an evaluation: over the samples of a set, and over generated samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from vtp_core.evaluation.evaluator import Evaluator, GeneratedBatch, Observation, Split
from vtp_core.evaluation.failures import Failures
from vtp_core.evaluation.gathering import Gathering
from vtp_core.evaluation.named_protocol import Preparation
from vtp_core.evaluation.progress import Show
from vtp_core.evaluation.protocol import GeneratedPass
from vtp_core.evaluation.sets.classes import check_labels
from vtp_core.evaluation.sets.dataset import EvaluationSet
from vtp_core.features import Tally
from vtp_core.tokenizer import Tokenizer
from vtp_core.training.ranks.world import World


def observe(
    model: Tokenizer,
    data: EvaluationSet,
    split: Split,
    how: Preparation,
    users: Mapping[str, Evaluator],
    failed: Failures,
    rows: int,
    world: World,
    show: Show,
    labels: Tensor | None,
) -> int:
    """Passes this rank's samples of a set to evaluators; returns their number.

    Labels of the training set are read by the table `labels`, as of `translation`.
    """
    assert model.config is not None
    fields = frozenset({"image"}).union(*(evaluator.fields_of(data) for evaluator in users.values()))
    count = 0
    views = range(how.views) if split == "train" and how.views else (None,)
    with (
        show(f"evaluation: {data.name}", len(data.indices()) * len(views)) as advance,
        failed.of_all(users),
    ):
        for view in views if users else ():
            read = replace(data, how=how, view=view)
            for batch in read.batches(model.config.image_size, rows, world.rank, world.size, fields):
                count += 0 if view else len(batch)
                check_labels(data, batch)
                if labels is not None and split == "train" and batch.label is not None:
                    known = batch.label >= 0
                    batch = replace(
                        batch, label=torch.where(known, labels[batch.label.clamp_min(0)], batch.label)
                    )
                seen = Observation(model, batch.to(model.device), split, how)
                for name in [name for name in users if name not in failed]:
                    with failed.of(name, batch.keys):
                        users[name].update(seen)
                advance(len(batch) * world.size)
    return count


def by_preparation(evaluators: Mapping[str, Evaluator]) -> dict[Preparation, dict[str, Evaluator]]:
    """The evaluators that can share a pass."""
    found: dict[Preparation, dict[str, Evaluator]] = {}
    for name, evaluator in evaluators.items():
        found.setdefault(evaluator.preparation, {})[name] = evaluator
    return found


def begin_generated(evaluators: Mapping[str, Evaluator], failed: Failures, ranks: Gathering) -> None:
    """Passes what evaluators know of both sets to all ranks."""
    known: dict[str, Tally] = {}
    waiting = {name: e for name, e in evaluators.items() if e.generated is not None}
    for name, evaluator in waiting.items():
        if name not in failed:
            with failed.of(name):
                known[name] = evaluator.before_generated()
    failed.agree(ranks)
    for name, evaluator in waiting.items():
        if name not in failed:
            shared = ranks.share(known[name])
            with failed.of(name):
                evaluator.begin_generated(shared)


def generate(
    model: Tokenizer,
    needed: GeneratedPass,
    users: Mapping[str, Evaluator],
    failed: Failures,
    rows: int,
    world: World,
    show: Show,
) -> None:
    """Passes this rank's generated samples to evaluators."""
    indices = torch.arange(world.rank, needed.samples, world.size, device=model.device)
    with show("evaluation: generated images", needed.samples) as advance:
        for part in indices.split(rows) if len(indices) else ():
            seen = GeneratedBatch(model, part, needed.seed, needed.settings or None)
            for name in [name for name in users if name not in failed]:
                with failed.of(name, [f"generated {index}" for index in part.tolist()]):
                    users[name].update_generated(seen)
            advance(len(part) * world.size)
