"""Checks that any evaluator has to pass; three lines in a plugin's own tests."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from vtp_core.evaluation.dataset import EvaluationSet
from vtp_core.evaluation.evaluator import Evaluator, Observation, Split
from vtp_core.evaluation.runner import Results, evaluate, why_not
from vtp_core.features import Tally
from vtp_core.testing.checks.parts import expect
from vtp_core.testing.shapes_source import ShapesSource
from vtp_core.testing.tiny_tokenizer import tiny_tokenizer
from vtp_core.tokenizer import Tokenizer
from vtp_core.view import sides


def check_evaluator(
    target: Callable[[Any], Evaluator],
    config: Any,
    *,
    model: Tokenizer | None = None,
    samples: int = 17,
    tolerance: float = 1e-4,
) -> None:
    """Measures a tiny tokenizer on drawn pictures, on a CPU.

    Numbers do not depend on the batch size, the number of ranks (one of them without a batch) or on what was
    measured before; every metric is declared with title and unit; the protocol is a name that does not depend
    on the data.

    Args:
        target: The evaluator's class.
        config: Its table.
        model: The tokenizer; default: one that encodes, decodes and embeds images and texts.
        samples: Held-out pictures, and half as many again for training.
        tolerance: Relative difference that float32 features may make.

    Raises:
        ConformanceError: A rule is broken.
    """
    evaluator = target(config)
    measured = model or tiny_tokenizer()
    size = max(sides(measured.config.image_size)) if measured.config is not None else 32
    held_out = EvaluationSet(name="drawn", source=ShapesSource(samples, size=size))
    train = EvaluationSet(name="drawn train", source=ShapesSource(samples * 3 // 2, size=size, seed=1))
    reason = why_not(evaluator, measured, held_out, train)
    expect(reason is None, f"it can't run on the check's tokenizer and data: {reason}; pass model=")
    protocol = evaluator.protocol
    expect(bool(protocol.strip()), "its protocol is empty")

    def run(rows: int, built: Evaluator | None = None) -> Results:
        return evaluate(measured, {"it": built or target(config)}, held_out, train, rows=rows)

    first = run(4, evaluator)
    expect(bool(first), "compute returns no metric")
    expect(evaluator.protocol == protocol, "its protocol changed with the data")
    for metric in first:
        expect(metric in evaluator.metrics, f"metric {metric!r} is not declared in `metrics`")
        about = evaluator.metrics[metric]
        expect(bool(about.title), f"metric {metric!r} has no title")
    values = {metric: _number(entry) for metric, entry in first.items()}
    again = {metric: _number(entry) for metric, entry in run(4, evaluator).items()}
    _compare(values, again, "measured again", 1e-9)
    _compare(values, {m: _number(entry) for m, entry in run(7).items()}, "in batches of 7", tolerance)
    if not evaluator.generated:
        for ranks in (2, samples + 1):
            each = [target(config) for _ in range(ranks)]
            parts = [_rank(one, measured, held_out, train, rank, ranks) for rank, one in enumerate(each)]
            scores = each[0].compute(_joined(parts))
            found = {metric: float(score.value) for metric, score in scores.items()}
            _compare(values, found, f"on {ranks} ranks", tolerance)


@torch.no_grad()
def _rank(
    evaluator: Evaluator,
    model: Tokenizer,
    held_out: EvaluationSet,
    train: EvaluationSet,
    rank: int,
    ranks: int,
) -> Tally:
    """The state of one rank, as the runner makes it."""
    evaluator.begin(model, tuple(held_out.source.classes))
    assert model.config is not None
    fields = frozenset({"image", *evaluator.fields})
    sets: tuple[tuple[bool, Split, EvaluationSet], ...] = (
        (evaluator.uses_train, "train", train),
        (evaluator.uses_held_out, "held_out", held_out),
    )
    for used, split, data in sets:
        for batch in data.batches(model.config.image_size, 4, rank, ranks, fields) if used else ():
            evaluator.update(Observation(model, batch.to(model.device), split))
    return evaluator.state()


def _joined(parts: list[Tally]) -> Tally:
    """States of all ranks as one."""
    for part in parts[1:]:
        same = part.sums.keys() == parts[0].sums.keys() and part.rows.keys() == parts[0].rows.keys()
        expect(same, "state() has other names on a rank without a batch: begin() sets all of them")
    return Tally(
        sums={name: torch.stack([part.sums[name] for part in parts]).sum(0) for name in parts[0].sums},
        rows={name: torch.cat([part.rows[name] for part in parts]) for name in parts[0].rows},
    )


def _compare(expected: Mapping[str, float], found: Mapping[str, float], how: str, tolerance: float) -> None:
    expect(
        expected.keys() == found.keys(), f"{how}, it has the metrics {sorted(found)}, not {sorted(expected)}"
    )
    for metric, left in expected.items():
        right = found[metric]
        close = math.isclose(left, right, rel_tol=tolerance, abs_tol=tolerance)
        expect(close, f"{metric} is {right:.6g} {how}, else {left:.6g}: state is sums, or rows by key")


def _number(entry: Mapping[str, object]) -> float:
    value = entry["value"]
    assert isinstance(value, float | int)
    return float(value)
