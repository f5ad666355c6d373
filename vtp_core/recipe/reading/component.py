"""Reads a component's table outside of a recipe: of a command or an artefact. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import ValidationError

from vtp_core.config import ComponentConfig
from vtp_core.errors import UsageError
from vtp_core.recipe.problems import dotted
from vtp_core.recipe.reading.messages import findings
from vtp_core.recipe.tables.slot import Slot, checked

if TYPE_CHECKING:
    from vtp_core.plugins import Plugins
    from vtp_core.plugins.hookspecs import Kind


def read_component(kind: Kind, table: Mapping[str, Any], plugins: Plugins) -> ComponentConfig:
    """The checked table of a component.

    Args:
        kind: Kind of component that `use` names.
        table: Plain values, as TOML or JSON holds them.
        plugins: Installed plugins.

    Raises:
        UsageError: The component is unknown or broken, or its table has errors; one line with all of them.
    """
    use = table.get("use")
    for key, value in table.items():
        if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
            raise UsageError(f"{kind} {use}: {key} = {value!r} is not UTF-8; rename the file or folder")
    if isinstance(use, str):
        plugins.find(kind, use).load_config()
    try:
        return checked(kind, dict(table), plugins)
    except ValidationError as error:
        found = findings(error, Annotated[ComponentConfig, Slot(kind)], dict(table), plugins)
        problems = "; ".join(
            f"{dotted(item.path)}: {item.message}" if item.path else item.message for item in found
        )
        shown = f"{kind} {use}" if isinstance(use, str) else kind
        advice = f"; see `vtp plugins show {use}`" if isinstance(use, str) else ""
        raise UsageError(f"{shown}: {problems}{advice}") from error
