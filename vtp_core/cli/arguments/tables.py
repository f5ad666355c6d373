"""A component as the command line names it: its name, or an inline table as in a recipe. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vtp_core.config import EvaluatorConfig
from vtp_core.errors import UsageError
from vtp_core.recipe.toml_values import TomlError, parse_toml

if TYPE_CHECKING:
    from vtp_core.config import ComponentConfig
    from vtp_core.plugins import Kind, Plugins


def is_table(text: str) -> bool:
    """Whether a text is an inline table and no pattern of paths such as ``{a,b}/*.tar``."""
    text = text.strip()
    return text.startswith("{") and text.endswith("}") and "=" in text


def read_table(text: str, kind: Kind, plugins: Plugins) -> ComponentConfig:
    """The checked table of a component, from its name or an inline TOML table.

    Raises:
        UsageError: It is no TOML, or the table has errors.
    """
    return read_values(kind, table_values(text, kind), plugins)


def read_values(kind: Kind, values: Mapping[str, Any], plugins: Plugins) -> ComponentConfig:
    """The checked table of a component that a command line names.

    Raises:
        UsageError: The table has errors, or keys that can't work together.
    """
    from vtp_core.recipe.reading.component import read_component

    table = read_component(kind, values, plugins)
    for key, reason in table.conflicts().items() if isinstance(table, EvaluatorConfig) else ():
        raise UsageError(f"{kind} {table.use}: {key}: {reason}")
    return table


def table_values(text: str, kind: Kind) -> dict[str, Any]:
    """The keys of a component's table, unchecked, from its name or an inline TOML table.

    Raises:
        UsageError: It is no TOML.
    """
    if not text.lstrip().startswith("{"):
        return {"use": text}
    try:
        values: dict[str, Any] = parse_toml(f"table = {text}")["table"]
    except TomlError as error:
        shown = text if len(text) <= 200 else f"{text[:200]}..."
        raise UsageError(f"{kind} {shown!r}: not a TOML table ({error})") from error
    return values
