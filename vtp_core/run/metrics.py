"""``metrics.jsonl``: one JSON object a logged step, cut back when a run resumes. Imports no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from vtp_core.recipe.history import current_metrics

METRICS = "metrics.jsonl"


class MetricsLog:
    """Appends to a run's ``metrics.jsonl``. A context manager; rank 0 has one.

    Keys are flat: ``step``, ``samples``, ``loss/<objective>/<term>``, ``weighted/<objective>``,
    ``grad_norm/<owner>``, ``lr``, ``rows_per_s`` and whatever an objective reports.
    """

    def __init__(self, folder: Path, last_step: int | None = None) -> None:
        """Opens the file.

        Args:
            folder: The run folder; it exists.
            last_step: Resume: largest ``step`` that stays; later lines, and a half line that a killed process
                left, are removed. None starts afresh.
        """
        self.path = folder / METRICS
        if last_step is None:
            self.path.write_text("", encoding="utf-8")
        else:
            _cut(self.path, last_step)
        self._file: TextIO = self.path.open("a", encoding="utf-8", newline="\n")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Appends the line of one logged step.

        Args:
            step: Its number; it grows from line to line.
            values: Name -> number. NaN and infinities, which JSON lacks, are written as null.
        """
        record = {"step": step, **{name: _number(value) for name, value in values.items()}}
        # One write a line: a reader that follows the file sees whole lines.
        self._file.write(json.dumps(record, allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """All whole lines of a run's ``metrics.jsonl``; nothing if there is none."""
    path = folder / METRICS
    if not path.is_file():
        return []
    lines = (_parse(line) for line in path.read_bytes().splitlines(keepends=True))
    return [line for line in lines if line is not None]


def _cut(path: Path, last_step: int) -> None:
    """Cuts the file before its first line that is later than `last_step`, or is not whole."""
    if not path.is_file():
        return
    size = 0
    with path.open("rb+") as file:
        for line in file:
            record = _parse(line)
            if record is None or record["step"] > last_step:
                break
            size += len(line)
        file.truncate(size)


def _parse(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        record = json.loads(line)
    except ValueError:
        return None
    if not isinstance(record, dict) or not isinstance(record.get("step"), int):
        return None
    return current_metrics(record)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
