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
        license: Of its weights, as far as it is stated; or empty.
        cost: Sizes and speeds.
        results: What `vtp_core.evaluation.runner.evaluate` returned.
        left_out: Evaluator -> why it didn't measure this tokenizer.
    """

    name: str
    license: str
    cost: Cost
    results: Mapping[str, Mapping[str, Any]]
    left_out: Mapping[str, str] = field(default_factory=dict)
