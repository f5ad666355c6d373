"""``metrics.jsonl``: one JSON object a logged step, cut back when a run resumes. Imports no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from vtp_core.atomic import naming, replacing_file


class MetricsLog:
    """Appends to a run's ``metrics.jsonl``. A context manager, used on rank 0.

    Keys are flat: ``step``, ``samples``, ``loss/<objective>/<term>``, ``weighted/<objective>``,
    ``grad_norm/<owner>``, ``lr``, ``rows_per_s`` and whatever an objective reports. An evaluation has a
    line of its own, ``eval/<metric>`` (`vtp_core.evaluation.history`).

    Args:
        path: The file; its folder exists.
        last_step: On a resume, the largest ``step`` to keep; later lines and an unfinished line are removed,
            damaged lines between those that stay are kept. None empties the file.

    Attributes:
        damaged: Number of damaged lines that stay in the file.
    """

    def __init__(self, path: Path, last_step: int | None = None) -> None:
        self.damaged = 0
        self._path = path
        if last_step is None:
            path.write_text("", encoding="utf-8")
        elif path.is_file():
            self.damaged = _cut(path, last_step)
        self._file: TextIO = path.open("a", encoding="utf-8", newline="\n")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Appends the line of one logged step.

        Args:
            step: Its number; it never falls from line to line.
            values: Name -> number. NaN and infinities, which JSON lacks, are written as null.
        """
        # One write a line: a reader that follows the file sees whole lines.
        with naming(self._path):
            self._file.write(_line(step, values))
            self._file.flush()

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with suppress(OSError):  # each line was flushed; what is left is one that could not be written
            self._file.close()


def append_line(path: Path, step: int, values: Mapping[str, float]) -> None:
    """Appends a line as `MetricsLog.write` does, also while one is open."""
    with naming(path), path.open("a", encoding="utf-8", newline="\n") as file:
        file.write(_line(step, values))


def read_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The objects of a JSON-lines file and the number of damaged or unfinished lines; none without a file."""
    if not path.is_file():
        return [], 0
    rows = [row for _, row in _lines(path)]
    whole = [row for row in rows if row is not None]
    return whole, len(rows) - len(whole)


def step_of(record: Mapping[str, Any]) -> int | None:
    """The ``step`` of a line; None if it has none, which counts as damage."""
    step = record.get("step")
    return step if type(step) is int else None


def _cut(path: Path, last_step: int) -> int:
    """Removes lines later than `last_step` with what follows them, and an unfinished line.

    Returns:
        Number of damaged lines that stay.
    """
    damaged, later = 0, False
    with replacing_file(path) as file:
        for line, record in _lines(path):
            step = None if record is None else step_of(record)
            if step is not None:
                later = step > last_step
            elif not line.endswith(b"\n"):
                continue
            if not later:
                file.write(line)
                damaged += step is None
    return damaged


def _lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any] | None]]:
    """Each line with its object, None for one that is damaged or unfinished."""
    with path.open("rb") as file:
        for line in file:
            record = None
            if line.endswith(b"\n"):
                with suppress(ValueError, RecursionError):
                    record = json.loads(line)
            yield line, record if isinstance(record, dict) else None


def _line(step: int, values: Mapping[str, float]) -> str:
    record = {"step": step, **{name: _number(value) for name, value in values.items()}}
    return json.dumps(record, allow_nan=False) + "\n"


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
