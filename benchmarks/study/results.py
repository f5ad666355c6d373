"""All records of a study by arm, and what is missing. Imports no torch."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.study.arm import Arm, runs_of
from benchmarks.study.record import read_record


@dataclass
class Results:
    """What was found.

    Attributes:
        arms: The study's arms.
        records: Arm -> the records of its runs, by seed.
        missing: Names of runs without a record.
        stale: Names of runs whose record is of other settings; they count as missing.
    """

    arms: Sequence[Arm]
    records: dict[str, list[Mapping[str, Any]]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)

    def values(self, arm: str, metric: str) -> list[float]:
        """A metric over the seeds of an arm: those that have it."""
        found = [record["metrics"].get(metric) for record in self.records[arm]]
        return [float(entry["value"]) for entry in found if entry is not None]

    def training(self, arm: str, name: str) -> list[float]:
        """What an objective reported at the last logged step, by the seeds that have it."""
        found = [record["training"].get(name) for record in self.records[arm]]
        return [float(value) for value in found if value is not None]

    def baseline(self, metric: str) -> tuple[str, list[float]] | None:
        """What something trivial reaches: its name, and the value in each record that has one.

        Some are of the data, the same in all records; some are of a tokenizer's own latents.
        """
        entries = [
            record["metrics"].get(metric, {}) for records in self.records.values() for record in records
        ]
        entries = [entry for entry in entries if entry.get("baseline") is not None]
        if not entries:
            return None
        names = dict.fromkeys(str(entry["baseline_name"]) for entry in entries)
        return " or ".join(names), [float(entry["baseline"]) for entry in entries]

    @property
    def data(self) -> list[str]:
        """Names of the data that the records are of."""
        return sorted({str(record["data"]) for records in self.records.values() for record in records})

    def account(self) -> str:
        """One or two sentences on how complete the study is."""
        total = len(runs_of(self.arms))
        lost = [*self.missing, *self.stale]
        text = f"{total - len(lost)} of {total} runs are there."
        if self.missing:
            text += f" Missing: {', '.join(self.missing)}."
        if self.stale:
            text += f" Made with other settings and left out: {', '.join(self.stale)}."
        return text


def read_results(arms: Sequence[Arm], folder: Path) -> Results:
    """Reads the records of all arms' runs."""
    found = Results(arms, {arm.name: [] for arm in arms})
    for run in runs_of(arms):
        path = folder / f"{run.name}.json"
        if not path.exists():
            found.missing.append(run.name)
            continue
        record = read_record(path)
        if record["settings"] != run.digest():
            found.stale.append(run.name)
        else:
            found.records[run.arm.name].append(record)
    return found


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Mean and, of several values, the least and the greatest; a dash for none."""
    if not values:
        return "–"
    mean = f"{statistics.fmean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.{digits}f} to {max(values):.{digits}f})"
