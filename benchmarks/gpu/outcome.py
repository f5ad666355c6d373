"""What became of a part. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(kw_only=True)
class Outcome:
    """What became of a part.

    Attributes:
        name: Of the part.
        summary: What it does.
        seconds: How long it took.
        lines: Its section of the report.
        failure: Why it failed, one line, or None.
    """

    name: str
    summary: str
    seconds: float = 0.0
    lines: list[str] = field(default_factory=list)
    failure: str | None = None
