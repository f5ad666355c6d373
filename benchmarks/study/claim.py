"""Claims that one arm surpasses another, and how far results bear them out. Imports no torch."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Literal

from benchmarks.study.results import Results, spread

Finding = Literal["appeared", "leaning", "absent", "reversed", "open"]


@dataclass(frozen=True)
class Claim:
    """In `metric`, larger is better, arm `above` surpasses arm `below`."""

    above: str
    below: str
    metric: str


def judge(above: list[float], below: list[float]) -> Finding:
    """How far values over seeds bear out that the first arm surpasses the second.

    Three seeds allow no test worth its name, so only ranges are compared.

    Returns:
        ``appeared``: even the worst seed of the one is above the best of the other. ``reversed``: the other
        way round. ``leaning``: the ranges overlap, the mean is higher. ``absent``: they overlap, it is not.
        ``open``: fewer than two seeds on a side, which say nothing about chance.
    """
    if min(len(above), len(below)) < 2:
        return "open"
    if min(above) > max(below):
        return "appeared"
    if max(above) < min(below):
        return "reversed"
    return "leaning" if statistics.fmean(above) > statistics.fmean(below) else "absent"


def describe(claim: Claim, found: Results, digits: int = 3) -> str:
    """One line: the claim, the finding, both arms' numbers."""
    above, below = found.values(claim.above, claim.metric), found.values(claim.below, claim.metric)
    counts = f"{len(above)} and {len(below)} seeds"
    return (
        f"{claim.above} > {claim.below}: {judge(above, below)} "
        f"[{spread(above, digits)} against {spread(below, digits)}; {counts}]"
    )
