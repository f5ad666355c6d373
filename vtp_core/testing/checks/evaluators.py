"""Checks that any evaluator has to pass; three lines in a plugin's own tests."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from vtp_core.errors import NumericError
from vtp_core.evaluation.evaluator import Evaluator, Observation, Split
from vtp_core.evaluation.protocol import EvaluationProtocol
from vtp_core.evaluation.runner import Results, evaluate, why_not
from vtp_core.evaluation.sets.dataset import EvaluationSet
from vtp_core.features import Tally, Tokens
from vtp_core.testing.checks.parts import expect
from vtp_core.testing.shapes_source import ShapesSource
from vtp_core.testing.tiny_tokenizer import tiny_tokenizer
from vtp_core.tokenizer import Tokenizer
from vtp_core.view import sides

Numbers = Mapping[str, float]
"""Metric, or metric and what belongs to it (``psnr.error``) -> number."""


def check_evaluator(
    target: Callable[[Any], Evaluator],
    config: Any,
    *,
    model: Tokenizer | None = None,
    samples: int = 17,
    tolerance: float = 1e-4,
) -> None:
    """Measures a tiny tokenizer on drawn pictures, on a CPU.

    Numbers, their errors and their trivial answers do not depend on the batch size (1, 3, 7), the order of
    samples, the number of ranks (one of them without a batch) or on what was measured before; sums are
    float64; features that are not finite give no number, and the error names the sample; every metric is
    declared with title and unit and lies within its range; the protocol is a name that does not depend on
    the data.

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
    evaluator.load()
    protocol = evaluator.protocol
    expect(bool(protocol.strip()), "its protocol is empty")

    def run(rows: int, built: Evaluator | None = None, *, turned: bool = False) -> Results:
        sets = (_turned(held_out), _turned(train)) if turned else (held_out, train)
        return evaluate(measured, {"it": built or target(config)}, *sets, rows=rows)

    first = run(3, evaluator)
    expect(bool(first), "compute returns no metric")
    expect(evaluator.protocol == protocol, "its protocol changed with the data")
    for metric in first:
        expect(metric in evaluator.metrics, f"metric {metric!r} is not declared in `metrics`")
        about = evaluator.metrics[metric]
        expect(bool(about.title), f"metric {metric!r} has no title")
        value = float(first[metric]["value"])  # type: ignore[arg-type]
        low, high = (
            -math.inf if about.low is None else about.low,
            math.inf if about.high is None else about.high,
        )
        expect(
            low - tolerance <= value <= high + tolerance,
            f"metric {metric!r} is {value:.6g}, beyond its range of {low:g} to {high:g}",
        )
    numbers = _numbers(first)
    _compare(numbers, _numbers(run(3, evaluator)), "measured again", 1e-9)
    _compare(numbers, _numbers(run(7)), "in batches of 7", tolerance)
    _compare(numbers, _numbers(run(1, turned=True)), "one by one in the opposite order", tolerance)
    if not evaluator.generated:
        for ranks in (2, samples + 1):
            each = [target(config) for _ in range(ranks)]
            parts = [_rank(one, measured, held_out, train, rank, ranks) for rank, one in enumerate(each)]
            scores = each[0].compute(_joined(parts))
            how = EvaluationProtocol(name=protocol, image_size=size)
            found = {name: score.entry(evaluator.metrics[name], how) for name, score in scores.items()}
            _compare(numbers, _numbers(found), f"on {ranks} ranks", tolerance)
    if evaluator.uses_held_out:
        with _broken_row(measured.encoder, row=2):
            _expect_refusal(lambda: run(3), numbers, "shape-2", tolerance)


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
    evaluator.load()
    evaluator.begin(model, tuple(held_out.source.classes))
    assert model.config is not None
    sets: tuple[tuple[bool, Split, EvaluationSet], ...] = (
        (evaluator.uses_train, "train", train),
        (evaluator.uses_held_out, "held_out", held_out),
    )
    for used, split, data in sets:
        fields = evaluator.fields_of(data)
        for batch in data.batches(model.config.image_size, 3, rank, ranks, fields) if used else ():
            evaluator.update(Observation(model, batch.to(model.device), split))
    state = evaluator.state()
    for name, value in state.sums.items():
        wide = not value.is_floating_point() or value.dtype == torch.float64
        expect(wide, f"the sum {name!r} of its state is {value.dtype}: float64 keeps what is added late")
    return state


def _joined(parts: list[Tally]) -> Tally:
    """States of all ranks as one."""
    for part in parts[1:]:
        same = part.sums.keys() == parts[0].sums.keys() and part.rows.keys() == parts[0].rows.keys()
        expect(same, "state() has other names on a rank without a batch: begin() sets all of them")
    return Tally(
        sums={name: torch.stack([part.sums[name] for part in parts]).sum(0) for name in parts[0].sums},
        rows={
            name: torch.cat(
                [part.rows[name] for part in parts if len(part.rows[name])] or [parts[0].rows[name]]
            )
            for name in parts[0].rows
        },
    )


def _turned(data: EvaluationSet) -> EvaluationSet:
    """The same samples from the last to the first."""
    return data.subset(range(len(data.indices()))[::-1])


@contextmanager
def _broken_row(encoder: nn.Module, row: int) -> Iterator[None]:
    """Within, the encoder gives NaN for one row of each batch that has it."""

    def spoil(_: nn.Module, __: Any, tokens: list[Tokens]) -> None:
        for crops in tokens:
            crops.patches[row : row + 1] = torch.nan

    handle = encoder.register_forward_hook(spoil)
    try:
        yield
    finally:
        handle.remove()


def _expect_refusal(run: Callable[[], Results], numbers: Numbers, sample: str, tolerance: float) -> None:
    """Features that are not finite are refused by the sample, or make no difference."""
    try:
        found = run()
    except NumericError as error:
        expect(
            sample in str(error), f"features of {sample} that are NaN are refused without its name: {error}"
        )
    else:
        _compare(numbers, _numbers(found), "with features that are NaN", tolerance)


def _compare(expected: Numbers, found: Numbers, how: str, tolerance: float) -> None:
    expect(
        expected.keys() == found.keys(), f"{how}, it has the metrics {sorted(found)}, not {sorted(expected)}"
    )
    for metric, left in expected.items():
        right = found[metric]
        close = math.isclose(left, right, rel_tol=tolerance, abs_tol=tolerance)
        expect(close, f"{metric} is {right:.6g} {how}, else {left:.6g}: state is sums, or rows by key")


def _numbers(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """All numbers of each metric's entry of ``eval.json``."""
    found: dict[str, float] = {}
    for metric, entry in entries.items():
        found[metric] = float(entry["value"])
        single = {
            "error": entry["error"],
            **dict(zip(("low", "high"), entry["interval"] or (), strict=False)),
        }
        for kind in (single, entry["baselines"], entry["also"]):
            found |= {f"{metric}.{name}": float(value) for name, value in kind.items() if value is not None}
    return found
