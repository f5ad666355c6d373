"""Settings of a generator as a command line gives them. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vtp_core.config import GeneratedEvaluatorConfig
from vtp_core.errors import UsageError

if TYPE_CHECKING:
    from vtp_core.config import ComponentConfig


def read_changes(changes: Sequence[str]) -> dict[str, Any]:
    """Settings as ``key=value`` with JSON values; anything else is a string.

    Raises:
        UsageError: There is no ``=``.
    """
    found: dict[str, Any] = {}
    for change in changes:
        key, sign, value = change.partition("=")
        if not sign:
            raise UsageError(f"--set {change}: give KEY=VALUE, such as steps=20")
        try:
            found[key.strip()] = json.loads(value)
        except (ValueError, RecursionError):
            found[key.strip()] = value
    return found


def sampled_with(
    tables: Mapping[str, ComponentConfig], changes: Mapping[str, Any]
) -> dict[str, ComponentConfig]:
    """The tables, those of evaluators of generated samples with settings of the generator.

    Raises:
        UsageError: There are settings, and no such evaluator.
    """
    found: dict[str, ComponentConfig] = dict(tables)
    measuring = {name: table for name, table in tables.items() if isinstance(table, GeneratedEvaluatorConfig)}
    if changes and not measuring:
        raise UsageError(
            f"--set {next(iter(changes))}: none of {', '.join(tables)} measures generated samples"
        )
    for name, table in measuring.items():
        found[name] = table.model_copy(update={"settings": {**table.settings, **changes}})
    return found
