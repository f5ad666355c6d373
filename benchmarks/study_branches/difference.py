"""Differences of two arms on the same held-out images, with intervals. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy

from benchmarks.study.results import Results

INTERVAL = 1.96
"""Standard errors on either side."""


@dataclass(frozen=True)
class Difference:
    """A difference of means over seeds.

    Attributes:
        value: It.
        error: Its standard error by bootstrap over images, the same sets for both arms.
        seeds: Seeds that both arms have.
    """

    value: float
    error: float
    seeds: int

    @property
    def sure(self) -> int:
        """1 or -1 if the interval is above or below 0, else 0."""
        return int(numpy.sign(self.value)) if abs(self.value) > INTERVAL * self.error else 0

    def text(self, digits: int) -> str:
        """The difference and its interval."""
        low, high = self.value - INTERVAL * self.error, self.value + INTERVAL * self.error
        return f"{self.value:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})"


def difference(found: Results, above: str, below: str, metric: str) -> Difference | None:
    """How far arm `above` lies above arm `below`; None if they have no seed in common."""
    first, second = ({record["seed"]: record for record in found.records[arm]} for arm in (above, below))
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        return None
    values = [
        first[seed]["metrics"][metric]["value"] - second[seed]["metrics"][metric]["value"] for seed in seeds
    ]
    draws = [_draws(first[seed], metric) - _draws(second[seed], metric) for seed in seeds]
    return Difference(float(numpy.mean(values)), float(numpy.mean(draws, axis=0).std(ddof=1)), len(seeds))


def _draws(record: object, metric: str) -> numpy.ndarray:
    assert isinstance(record, dict)
    return numpy.array([float(each) for each in record["draws"][metric].split()])
