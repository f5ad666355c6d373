"""Settings of a generator as a command line gives them. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vtp_core.config import GeneratedEvaluatorConfig
from vtp_core.errors import UsageError

if TYPE_CHECKING:
    from vtp_core.config import ComponentConfig
    from vtp_core.tokenizer import Tokenizer


def require_sampled(tables: Mapping[str, ComponentConfig], changes: Mapping[str, Any]) -> None:
    """Refuses settings of a generator where no evaluator measures generated samples.

    Raises:
        UsageError: There are settings, and no such evaluator.
    """
    if changes and not any(isinstance(table, GeneratedEvaluatorConfig) for table in tables.values()):
        raise UsageError(
            f"--set {next(iter(changes))}: none of {', '.join(tables)} measures generated samples"
        )


def sampled_with(
    table: ComponentConfig, changes: Mapping[str, Any], model: Tokenizer
) -> tuple[ComponentConfig, list[str]]:
    """The table of an evaluator, that of generated samples with settings of the command line.

    Settings of the table that these leave without effect, such as a tolerance that another sampler doesn't
    read, are dropped, since a command line can't remove them.

    Args:
        table: Of any evaluator.
        changes: Settings by key.
        model: The tokenizer of the generator; its weights may be on the meta device.

    Returns:
        The table, and a line for each setting that is dropped.

    Raises:
        UsageError: The generator can't follow them, or there is none.
    """
    from vtp_core.tokenizer.generated import changed_settings

    if not changes or not isinstance(table, GeneratedEvaluatorConfig):
        return table, []
    settings, dropped = changed_settings(model, table.settings, changes)
    lines = [
        f"settings of {table.use}: without {key}, which has no effect {why}" for key, why in dropped.items()
    ]
    return table.model_copy(update={"settings": settings}), lines
