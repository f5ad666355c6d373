"""Fields of a recipe that hold a component's table, validated by the plugin's config. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError, ValidationInfo
from pydantic_core import InitErrorDetails, PydanticCustomError, core_schema

from vtp_core.config import ComponentConfig
from vtp_core.errors import UsageError
from vtp_core.plugins import Plugins
from vtp_core.plugins.own import OWN

if TYPE_CHECKING:
    from vtp_core.plugins.hookspecs import Kind

DEFAULTS: Mapping[Kind, str] = {"optimizer": "adamw"}
"""Kind -> the component of a table without `use`."""

SHORT: frozenset[Kind] = frozenset({"augmentation"})
"""Kinds of which the name of one of the core's own may stand for its table."""

SLOT_KEY = "x-vtp-slot"
"""Key in the JSON schema of a model that marks a component's table; its value is the kind."""


@dataclass(frozen=True)
class Slot:
    """Marks a field as the table of a component: ``Annotated[ComponentConfig, Slot("encoder")]``.

    Validation needs ``context={"plugins": plugins}``. A config object is accepted unchanged.

    Attributes:
        kind: Kind of component that the table chooses with `use`.
    """

    kind: Kind

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.with_info_before_validator_function(self._resolve, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {SLOT_KEY: self.kind}

    def _resolve(self, value: Any, info: ValidationInfo) -> ComponentConfig:
        if isinstance(value, ComponentConfig):
            return value
        if self.kind in SHORT and isinstance(value, str):
            value = self._table(value)
        context: Mapping[str, Any] = info.context or {}
        return checked(self.kind, value, context.get("plugins") or Plugins())

    def _table(self, name: str) -> dict[str, str]:
        """The table that a name stands for."""
        own = [component.name for component in OWN if component.kind == self.kind]
        if name in own:
            return {"use": name}
        names = ", ".join(f'"{known}"' for known in own)
        message = f'expected {names} or a table such as {{ use = "PLUGIN.NAME" }}, got the string "{name}"'
        raise PydanticCustomError("component_name", "{message}", {"message": message})


def checked(kind: Kind, table: Any, plugins: Plugins) -> ComponentConfig:
    """The config object of a component's table.

    Args:
        kind: Kind of component.
        table: Plain TOML values, `use` among them unless the kind has a default.
        plugins: Installed plugins.

    Raises:
        ValidationError: All errors of the table; an unknown or broken component is an error at ``use``.
    """
    if not isinstance(table, dict):
        example = f", such as {{ use = {json.dumps(table)} }}" if isinstance(table, str) else ""
        message = f'expected a table with the key "use"{example}'
        raise PydanticCustomError("component_table", "{message}", {"message": message})
    use = table.get("use", DEFAULTS.get(kind))
    if not isinstance(use, str):
        names = ", ".join(component.name for component in plugins.components(kind)) or "none is installed"
        given = "missing" if use is None else "expected a string"
        raise _at_use(kind, table, f"{given}; names the {kind}: {names}")
    try:
        model = plugins.find(kind, use).load_config()
        values = json.dumps({"use": use, **table}, default=str)
        return model.model_validate_json(values, strict=True, context={"plugins": plugins})
    except UsageError as error:
        raise _at_use(kind, table, " ".join(str(error).split())) from error
    except (ValidationError, KeyboardInterrupt):
        raise
    except BaseException as error:  # a validator of a plugin may fail in any way
        message = f"the check of {kind} {use} failed: {type(error).__name__}: {error}"
        raise _at_use(kind, table, " ".join(message.split())) from error


def _at_use(kind: str, table: dict[str, Any], message: str) -> ValidationError:
    problem = PydanticCustomError("component", "{message}", {"message": message})
    details = InitErrorDetails(type=problem, loc=("use",), input=table.get("use"))
    return ValidationError.from_exception_data(kind, [details])
