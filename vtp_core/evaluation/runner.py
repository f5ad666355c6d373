"""Runs evaluators over their passes: training set, held-out set, generated samples."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from vtp_core.errors import NumericError, UsageError, VtpError
from vtp_core.evaluation.evaluator import Evaluator, Split
from vtp_core.evaluation.failures import Failures
from vtp_core.evaluation.gathering import Gathering
from vtp_core.evaluation.named_protocol import NamedProtocol
from vtp_core.evaluation.passes import begin_generated, by_preparation, generate, observe
from vtp_core.evaluation.progress import Show, silent
from vtp_core.evaluation.protocol import EvaluationProtocol, Metric, Score, SetFacts
from vtp_core.evaluation.sampling import sampling_problem
from vtp_core.evaluation.sets.classes import mismatch, translation
from vtp_core.evaluation.sets.dataset import EvaluationSet
from vtp_core.features import Tally
from vtp_core.tokenizer import Tokenizer
from vtp_core.tokenizer.checks import broken_weights
from vtp_core.tokenizer.generated import sampling_of
from vtp_core.training.ranks.world import World
from vtp_core.view import size_text

Results = dict[str, dict[str, object]]


def why_not(
    evaluator: Evaluator, model: Tokenizer, held_out: EvaluationSet | None, train: EvaluationSet | None
) -> str | None:
    """Why an evaluator can't run, or None if it can."""
    needed = evaluator.requires | ({"generate"} if evaluator.generated is not None else frozenset())
    if lacking := sorted(needed - model.capabilities):
        tower = " (no text tower: no objective of its recipe exports one)" if "embed_text" in lacking else ""
        return f"the tokenizer has no {', '.join(lacking)}{tower}"
    if reason := _other_size(evaluator.follows, model) or evaluator.refuses(model):
        return reason
    for wanted, kind, data in (
        (evaluator.uses_held_out, "held-out data", held_out),
        (evaluator.uses_train, "a training set", train),
    ):
        if not wanted:
            continue
        if data is None:
            return f"it needs {kind}"
        if lacking := sorted(evaluator.fields - data.source.fields):
            return f"{data.name} has no {', '.join(lacking)}"
    if reason := _departure(evaluator, held_out, train):
        return reason
    if reason := _sampling_problem(evaluator, model):
        return reason
    if evaluator.uses_held_out and held_out is not None:
        count = len(held_out.indices())
        if count < evaluator.least_samples:
            return f"it needs {evaluator.least_samples} samples, and {held_out.name} has {count}"
    if evaluator.uses_train and "label" in evaluator.fields and held_out is not None and train is not None:
        if reason := mismatch(held_out, train):
            return reason
    return evaluator.why_not(held_out, train)


def _other_size(named: NamedProtocol | None, model: Tokenizer) -> str | None:
    """How the tokenizer's images differ from those of a named protocol; None if they don't."""
    if named is None or model.config is None or (size := model.config.image_size) == named.image_size:
        return None
    wanted, given = size_text(named.image_size), size_text(size)
    return f"{named.name} is measured at {wanted} px, and the tokenizer has {given} px"


def _departure(
    evaluator: Evaluator, held_out: EvaluationSet | None, train: EvaluationSet | None
) -> str | None:
    """How the images of an evaluation would differ from its named protocol's; None if they don't, or may."""
    named = evaluator.follows
    if named is None:
        return None
    if named.images is None and held_out is not None and evaluator.generated is None and not evaluator.forced:
        if (count := len(held_out.indices())) != (whole := len(held_out.source)):
            return (
                f"{named.name} is measured on whole sets, and {count} of the {whole} images of "
                f"{held_out.name} are taken; force = true uses them and marks the number"
            )
    used = [("measured", named.images, held_out), ("fitted", named.train_images, train)]
    counts = [
        (verb, asked, "" if d is None else d.name, 0 if d is None else len(d.indices()))
        for verb, asked, d in used
    ]
    if evaluator.generated is not None:
        counts[0] = ("measured", named.images, "`samples`", evaluator.generated.samples)
    for verb, wanted_count, name, count in counts:
        if wanted_count not in (None, count) and not evaluator.forced:
            return (
                f"{named.name} is {verb} on {wanted_count} images, and {name} has {count}; "
                "force = true uses them and marks the number"
            )
    return None


def _sampling_problem(evaluator: Evaluator, model: Tokenizer) -> str | None:
    """Settings that the generator can't follow, or that its named protocol doesn't allow; None: neither."""
    if evaluator.generated is None:
        return None
    settings = evaluator.generated.settings
    try:
        sampling = sampling_of(model, settings)
    except UsageError as error:
        return str(error)
    named = evaluator.follows
    if named is None or evaluator.forced:
        return None
    return sampling_problem(
        named.name, named.sampling, sampling, lambda changes: sampling_of(model, {**settings, **changes})
    )


@torch.no_grad()
def evaluate(
    model: Tokenizer,
    evaluators: Mapping[str, Evaluator],
    held_out: EvaluationSet | None = None,
    train: EvaluationSet | None = None,
    *,
    rows: int = 64,
    world: World | None = None,
    show: Show = silent,
    failures: dict[str, VtpError] | None = None,
) -> Results:
    """Measures a tokenizer, whose training mode is restored afterwards.

    Samples are dealt over the ranks. Each rank needs the whole model, not shards of it: ranks may run
    different numbers of batches.

    Args:
        model: A tokenizer with a `config`.
        evaluators: Name in the recipe -> evaluator.
        held_out: The set to measure on; None for evaluators that read none.
        train: The set that probes are fitted on.
        rows: Samples per batch.
        world: The ranks of the evaluation; None: this process alone.
        show: Shows the progress of each pass.
        failures: Gets evaluator -> error for those that fail, while the others are measured; None: the first
            failure is raised.

    Returns:
        Metric -> what `Score.entry` returns, on all ranks. A metric that two evaluators have is
        ``<evaluator>.<metric>`` the second time.

    Raises:
        UsageError: An evaluator needs what the tokenizer or the data lack, or a file that is not found.
        DataError: A sample is bad, or a set has too few samples, labels or captions.
        NumericError: A weight of the tokenizer is not finite, which no evaluator measures and `failures`
            doesn't hold; an output of the tokenizer or a metric is not finite.
    """
    world = world if world is not None else World()
    if model.config is None:
        raise UsageError("evaluate: the tokenizer has no config, so no image size; pass config=")
    failed = Failures(failures)
    for name, evaluator in evaluators.items():
        with failed.of(name):
            if reason := why_not(evaluator, model, held_out, train):
                raise UsageError(f"evaluator {name}: {reason}; leave it out or change the data")
    sets: dict[Split, EvaluationSet] = {}
    if train is not None and any(evaluator.uses_train for evaluator in evaluators.values()):
        sets["train"] = train
    if held_out is not None and any(evaluator.uses_held_out for evaluator in evaluators.values()):
        sets["held_out"] = held_out
    classes = tuple(held_out.source.classes) if held_out is not None else ()
    labels, matched = (None, "") if train is None or held_out is None else translation(held_out, train)
    counts: dict[str, Tensor] = {}
    states: dict[str, Tally] = {}
    facts: dict[Split, SetFacts | None] = {}
    results: Results = {}

    def going(split: Split | None = None) -> dict[str, Evaluator]:
        """The evaluators of a set, or all, without those that failed."""
        return {
            name: e
            for name, e in evaluators.items()
            if name not in failed
            and (split is None or (e.uses_train if split == "train" else e.uses_held_out))
        }

    with Gathering(world) as ranks, _eval_mode(model):
        _check_weights(model, ranks)
        for name, evaluator in going().items():
            with failed.of(name):
                evaluator.load()
                evaluator.begin(model, classes)
        for split, data in sets.items():
            for how, users in by_preparation(going(split)).items():
                count = observe(model, data, split, how, users, failed, rows, world, show, labels)
                counts[split] = torch.tensor(count)
            counts.setdefault(split, torch.tensor(0))
        if any(evaluator.generated for evaluator in evaluators.values()):
            begin_generated(evaluators, failed, ranks)
        for needed in dict.fromkeys(evaluator.generated for evaluator in evaluators.values()):
            if needed is not None:
                users = {name: e for name, e in going().items() if e.generated == needed}
                generate(model, needed, users, failed, rows, world, show)
        for name, evaluator in going().items():
            with failed.of(name):
                states[name] = evaluator.state()
        failed.agree(ranks)
        total = ranks.gather(Tally(sums=counts))
        for split, data in sets.items():
            facts[split] = failed.on_first(ranks, [*going(split)], partial(_facts, split, data, total))
        for name, evaluator in going().items():
            protocol = EvaluationProtocol(
                name=evaluator.protocol,
                image_size=model.config.image_size,
                held_out=facts["held_out"] if evaluator.uses_held_out else None,
                train=facts["train"] if evaluator.uses_train else None,
                classes=matched if evaluator.uses_train and "label" in evaluator.fields else "",
                generated=evaluator.generated,
                sampling=sampling_of(model, asked.settings) if (asked := evaluator.generated) else None,
                weights=model.config.weights,
                held_out_role=evaluator.held_out_role,
                train_role=evaluator.train_role,
                named=evaluator.follows,
                preparation=evaluator.preparation,
            )
            state = ranks.gather(states[name])
            with show(f"computing {name}"):
                scores = failed.on_first(ranks, [name], partial(_scores, name, evaluator, state))
            for metric, score in (scores or {}).items():
                about = evaluator.metrics.get(metric, Metric(title=metric.replace("_", " ")))
                key = metric if evaluator.follows is None else f"{metric}@{protocol.label}"
                key = f"{name}.{key}" if key in results else key
                described = replace(protocol, name=evaluator.protocol_of(metric))
                about_it = {"evaluator": name, "aspect": evaluator.aspect}
                results[key] = {**score.entry(about, described), **about_it}
    return results


def _check_weights(model: Tokenizer, ranks: Gathering) -> None:
    """Refuses a tokenizer with weights that are not finite, on any rank; all ranks call it."""
    broken = next((names for names in ranks.gather_objects(broken_weights(model)) if names), None)
    if broken is not None:
        more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
        raise NumericError(
            f"evaluation: the tokenizer's weight {broken[0]}{more} is not finite, so nothing is measured; "
            "take an earlier checkpoint"
        )


def _facts(split: Split, data: EvaluationSet, counts: Tally | None) -> SetFacts:
    """The set as protocols name it; called on rank 0, which has the counts of all ranks."""
    assert counts is not None
    return data.facts(int(counts.sums[split]))


def _scores(name: str, evaluator: Evaluator, state: Tally | None) -> dict[str, Score]:
    """An evaluator's scores; called on rank 0, which has the state of all ranks."""
    assert state is not None
    scores: dict[str, Score] = {}
    for metric, score in evaluator.compute(state).items():
        if not math.isfinite(score.value):
            raise NumericError(f"evaluator {name}: {metric} is {score.value}; check the weights")
        scores[metric] = score
    return scores


@contextmanager
def _eval_mode(model: Tokenizer) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
