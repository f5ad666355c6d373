"""``metrics.jsonl``: one JSON object a logged step, cut back when a run resumes. Imports no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO


class MetricsLog:
    """Appends to a run's ``metrics.jsonl``. A context manager, used on rank 0.

    Keys are flat: ``step``, ``samples``, ``loss/<objective>/<term>``, ``weighted/<objective>``,
    ``grad_norm/<owner>``, ``lr``, ``rows_per_s`` and whatever an objective reports.

    Args:
        path: The file; its folder exists.
        last_step: On a resume, the largest ``step`` to keep; later lines and an unfinished line are removed.
            None empties the file.
    """

    def __init__(self, path: Path, last_step: int | None = None) -> None:
        if last_step is None:
            path.write_text("", encoding="utf-8")
        else:
            _cut(path, last_step)
        self._file: TextIO = path.open("a", encoding="utf-8", newline="\n")

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

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()


def read_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The objects of a JSON-lines file and the number of damaged or unfinished lines; none without a file."""
    if not path.is_file():
        return [], 0
    rows = [_parse(line) for line in path.read_bytes().splitlines(keepends=True)]
    whole = [row for row in rows if row is not None]
    return whole, len(rows) - len(whole)


def _cut(path: Path, last_step: int) -> None:
    """Truncates the file before its first line that is later than `last_step` or damaged."""
    if not path.is_file():
        return
    size = 0
    with path.open("rb+") as file:
        for line in file:
            record = _parse(line)
            if record is None or not isinstance(record.get("step"), int) or record["step"] > last_step:
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
    return record if isinstance(record, dict) else None


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
