"""The ranking of tokenizers from their records, and how fast their proxies got there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vtp_core.evaluation.intervals import score_of
from vtp_core.evaluation.protocol import Score, Verdict, verdict
from vtp_plugins.probe_gen.record import Point, Record

GAUSSIAN = "Gaussian latents"


@dataclass(frozen=True, kw_only=True)
class Place:
    """A tokenizer in the ranking.

    Attributes:
        name: Its name on the command line.
        records: One a seed.
        kernel: Mean kernel distance over seeds, with the error and interval of that mean.
        frechet: The same of the Fréchet distance; None if one record has none.
        verdict: Kernel distance beside that of Gaussian latents; None of one seed.
        beside_first: Beside the first of the ranking, paired by seed; None of one seed, and of the first.
    """

    name: str
    records: Sequence[Record]
    kernel: Score
    frechet: Score | None
    verdict: Verdict | None
    beside_first: Verdict | None


def ranking(measured: Mapping[str, Sequence[Record]]) -> list[Place]:
    """Tokenizers by mean kernel distance, the least first.

    Args:
        measured: Name -> records of the same seeds in the same order.
    """
    kernels = {name: _column([r.final.kernel for r in records]) for name, records in measured.items()}
    order = sorted(kernels, key=lambda name: float(kernels[name].mean()))
    places = []
    for name in order:
        records = measured[name]
        gaussian = _column([record.gaussian.kernel for record in records])
        trivial = {GAUSSIAN: gaussian} | ({order[0]: kernels[order[0]]} if name != order[0] else {})
        score = score_of(kernels[name], trivial)
        frechets = [record.final.frechet for record in records]
        places.append(
            Place(
                name=name,
                records=records,
                kernel=score,
                frechet=score_of(_column(frechets)) if None not in frechets else None,
                verdict=_beside(score, GAUSSIAN),
                beside_first=None if name == order[0] else _beside(score, order[0]),
            )
        )
    return places


@dataclass(frozen=True, kw_only=True)
class Reached:
    """When a curve got to a level.

    Attributes:
        steps: Training steps.
        at_most: Whether the first point is at the level already, so that it was reached then or before.
    """

    steps: float
    at_most: bool = False


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How fast the proxies of a tokenizer got to a distance.

    Attributes:
        curve: Mean over seeds by training step.
        steps: Training steps to the kernel distance that all tokenizers reach.
        times_faster: Steps of the slowest tokenizer over `steps`, a lower bound where `steps` is an upper
            one; None: all were there at their first point.
        epochs: Epochs to a given Fréchet distance (EP_FID), as `steps`; None: not reached, or none was given.
    """

    curve: Sequence[Point]
    steps: Reached
    times_faster: float | None
    epochs: Reached | None


def speeds(places: Sequence[Place], frechet: float | None = None) -> tuple[float, dict[str, Speed]]:
    """The largest of the final kernel distances, which all reach, and how fast each did.

    Source:
        The paper's Figure 9; EP_FID of RAEv2 (arXiv 2605.18324).
    """
    curves = {place.name: mean_curve(place.records) for place in places}
    level = max(curve[-1].kernel for curve in curves.values())
    steps = {name: reached(curve, level) for name, curve in curves.items()}
    known = {name: value for name, value in steps.items() if value is not None}
    slowest = max(known.values(), key=lambda value: value.steps)
    found = {}
    for name, curve in curves.items():
        there = None if frechet is None else reached(curve, frechet, "frechet")
        a_step = curve[-1].epochs / curve[-1].step
        found[name] = Speed(
            curve=curve,
            steps=known[name],
            times_faster=None if slowest.at_most else slowest.steps / known[name].steps,
            epochs=None if there is None else replace(there, steps=there.steps * a_step),
        )
    return level, found


def reached(curve: Sequence[Point], level: float, distance: str = "kernel") -> Reached | None:
    """When a curve is at a level or below it for the first time; None: it never is.

    Between two points the distance is taken to fall linearly in the logarithm of the step.

    Args:
        curve: Points by step.
        level: The distance to reach.
        distance: ``"kernel"`` or ``"frechet"``.
    """
    before: tuple[int, float] | None = None
    for point in curve:
        value = getattr(point, distance)
        if value is None:
            return None
        if value <= level:
            if before is None:
                return Reached(steps=float(point.step), at_most=True)
            step, high = before
            share = (high - level) / (high - value)
            return Reached(steps=math.exp(math.log(step) + share * (math.log(point.step) - math.log(step))))
        before = point.step, value
    return None


def mean_curve(records: Sequence[Record]) -> list[Point]:
    """The mean over seeds at each step that all records have."""
    curves = [{point.step: point for point in record.curve} for record in records]
    steps = sorted(set.intersection(*(set(curve) for curve in curves)))
    points = []
    for step in steps:
        same = [curve[step] for curve in curves]
        frechets = [point.frechet for point in same if point.frechet is not None]
        points.append(
            Point(
                step=step,
                epochs=same[0].epochs,
                kernel=sum(point.kernel for point in same) / len(same),
                frechet=sum(frechets) / len(same) if len(frechets) == len(same) else None,
            )
        )
    return points


def _column(values: Sequence[float | None]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _beside(score: Score, name: str) -> Verdict | None:
    return verdict(-score.value, -1, score.baselines[name])
