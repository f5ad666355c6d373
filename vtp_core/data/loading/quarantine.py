"""Counts and logs bad samples; too many of them end the run. Imports no torch."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from os import SEEK_END
from pathlib import Path
from typing import Any

from vtp_core.atomic import naming
from vtp_core.errors import CheckpointError, DataError

_WINDOW = (
    10_000  # samples over which the fraction is taken, so that a shard damaged late in a long run counts
)
_SLACK = 10  # bad samples that each window allows: a fraction of few samples means nothing


@dataclass(frozen=True, kw_only=True)
class BadRead:
    """One sample that the loader replaced.

    Attributes:
        step: Step for which it was read.
        row: Global row of that step.
        source: Name of the source in the recipe.
        index: Number of the sample in its source.
        key: Its name.
        reason: Why, from a small set.
        detail: What exactly is wrong.
    """

    step: int
    row: int
    source: str
    index: int
    key: str
    reason: str
    detail: str


class Quarantine:
    """Counts the bad samples of one rank.

    Args:
        max_bad_fraction: Fraction of a window of 10,000 samples above which the run stops; ten bad samples
            are always allowed, unless the fraction is 0.
        path: File that gets a JSON line for each bad sample, once; None: none.

    Attributes:
        seen: Samples read, bad ones included.
        reasons: Reason -> bad samples.
    """

    def __init__(self, max_bad_fraction: float, path: Path | None = None) -> None:
        self.max_bad_fraction = max_bad_fraction
        self.path = path
        self.seen = 0
        self.reasons: Counter[str] = Counter()
        self._known: set[tuple[str, int]] = set()
        self._window = [0, 0]

    def add(self, rows: int, bad: Sequence[BadRead]) -> None:
        """Counts a step.

        Args:
            rows: Samples in use.
            bad: Samples that were replaced.

        Raises:
            DataError: Too many were bad.
        """
        self.seen += rows + len(bad)
        self.reasons.update(item.reason for item in bad)
        self._write([item for item in bad if (item.source, item.index) not in self._known])
        self._known.update((item.source, item.index) for item in bad)
        self._window[0] += rows + len(bad)
        self._window[1] += len(bad)
        seen, count = self._window
        slack = _SLACK if self.max_bad_fraction > 0 else 0
        if count > slack + self.max_bad_fraction * seen:
            where = f"; see {self.path}" if self.path else ""
            raise DataError(
                f"{count} of the last {seen} samples are bad ({histogram(self.reasons)}), more than "
                f"data.max_bad_fraction = {self.max_bad_fraction:g} allows; the last: {bad[-1].key} of "
                f"source {bad[-1].source}{where}; run `vtp data check` on the source"
            )
        if seen >= _WINDOW:
            self._window = [0, 0]

    def state(self) -> dict[str, Any]:
        """JSON data of a checkpoint, so that a restart does not begin to count again."""
        return {"window": list(self._window), "reasons": dict(self.reasons)}

    def resume(self, states: object, rank: int, world_size: int) -> None:
        """Goes on from a checkpoint.

        Args:
            states: What `state` gave on each rank; None, of an earlier version, counts from 0. Another number
                of ranks shares the counts evenly.
            rank: This rank.
            world_size: Number of ranks.

        Raises:
            CheckpointError: Not what `state` gives.
        """
        if states is None:
            return
        if not isinstance(states, list) or not states or not all(map(_is_state, states)):
            raise CheckpointError(
                f"the manifest of the checkpoint has no counts of bad samples, but {states!r}"
            )
        same = len(states) == world_size
        mine, shares, place = (states[rank : rank + 1], 1, 0) if same else (states, world_size, rank)
        totals = [sum(state["window"][index] for state in mine) for index in range(2)]
        self._window = [total // shares + (place < total % shares) for total in totals]
        for state in mine:
            self.reasons.update(state["reasons"])

    def _write(self, bad: Sequence[BadRead]) -> None:
        if self.path is None or not bad:
            return
        lines = "".join(json.dumps(asdict(item)) + "\n" for item in bad)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with naming(self.path), self.path.open("ab+") as file:
            if file.tell() > 0:
                file.seek(-1, SEEK_END)
                if file.read(1) != b"\n":  # a process was killed in the middle of its last line
                    lines = "\n" + lines
            file.write(lines.encode())


def _is_state(state: object) -> bool:
    if not isinstance(state, dict) or state.keys() != {"window", "reasons"}:
        return False
    window, reasons = state["window"], state["reasons"]
    if not isinstance(window, list) or len(window) != 2 or not isinstance(reasons, dict):
        return False
    return all(type(count) is int and count >= 0 for count in (*window, *reasons.values()))


def histogram(reasons: Mapping[str, int]) -> str:
    """Reasons with their counts on one line, the most frequent first."""
    ordered = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{reason}: {count}" for reason, count in ordered)
