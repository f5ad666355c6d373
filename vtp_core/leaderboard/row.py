"""What is known of one tokenizer of the table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vtp_core.leaderboard.cost import Cost


@dataclass(frozen=True, kw_only=True)
class Row:
    """A tokenizer of the table.

    Attributes:
        name: As the command line gave it.
        results: What `vtp_core.evaluation.runner.evaluate` returned.
        cost: Sizes and speeds; None: they were not measured.
        license: Of its weights, as far as it is stated; or empty.
        left_out: Evaluator -> why it didn't measure this tokenizer.
    """

    name: str
    results: Mapping[str, Mapping[str, Any]]
    cost: Cost | None = None
    license: str = ""
    left_out: Mapping[str, str] = field(default_factory=dict)
