"""Describes the keys of a component's table: types, defaults, meanings. Imports no torch."""

from __future__ import annotations

import types
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined, to_jsonable_python

from vtp_core import schedule
from vtp_core.recipe.writing.docs import key_docs

_BOUNDS = {
    annotated_types.Ge: (">=", "ge"),
    annotated_types.Gt: (">", "gt"),
    annotated_types.Le: ("<=", "le"),
    annotated_types.Lt: ("<", "lt"),
}
_SCALARS = {bool: "true or false", int: "integer", float: "number", str: "string", type(None): "unset"}
_SCHEDULES = (
    schedule.Constant,
    schedule.Linear,
    schedule.Cosine,
    schedule.StepSchedule,
    schedule.WarmupStableDecay,
)


@dataclass(frozen=True, kw_only=True)
class ConfigKey:
    """One key of a recipe table.

    Attributes:
        key: Its name.
        type: Its type in words.
        required: Whether the recipe has to set it.
        default: JSON data; None for a required or unset key.
        doc: Its meaning.
    """

    key: str
    type: str
    required: bool
    default: Any
    doc: str


def config_keys(config: type[BaseModel]) -> list[ConfigKey]:
    """The keys of a component's table, its own before those of every table of its kind."""
    inherited = [
        name for base in config.__mro__[1:] if issubclass(base, BaseModel) for name in base.model_fields
    ]
    docs = key_docs(config)
    fields = sorted(config.model_fields.items(), key=lambda item: item[0] in inherited)
    return [
        ConfigKey(
            key=field.alias or name,
            type=_words(Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation),
            required=field.is_required(),
            default=_plain(field.get_default(call_default_factory=True)),
            doc=" ".join(docs.get(name, "").split()),
        )
        for name, field in fields
    ]


def _plain(default: Any) -> Any:
    return None if default is PydanticUndefined else to_jsonable_python(default)


def _words(annotation: Any) -> str:
    """A type in words."""
    origin, parameters = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        bounds = _bounds(parameters[1:])
        return f"{_words(parameters[0])} ({', '.join(bounds)})" if bounds else _words(parameters[0])
    if origin is Literal:
        return " | ".join(f'"{value}"' if isinstance(value, str) else str(value) for value in parameters)
    if origin in (Union, types.UnionType):
        return " | ".join(dict.fromkeys(_words(item) for item in parameters))
    if origin is tuple and len(parameters) == 2 and parameters[1] is Ellipsis:
        return f"list of {_words(parameters[0])}"
    if origin is tuple:
        return f"[{', '.join(_words(item) for item in parameters)}]"
    if origin in (list, set, frozenset):
        return f"list of {_words(parameters[0])}"
    if origin is not None and len(parameters) == 2:
        return f"table of {_words(parameters[1])}"
    if annotation in _SCHEDULES:
        return "schedule"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "table"
    return _SCALARS.get(annotation, getattr(annotation, "__name__", str(annotation)).lower())


def _bounds(metadata: Iterable[Any]) -> list[str]:
    found = []
    for item in metadata:
        if isinstance(item, FieldInfo):
            found += _bounds(item.metadata)
        elif bound := _BOUNDS.get(type(item)):
            found.append(f"{bound[0]} {getattr(item, bound[1])}")
        elif isinstance(item, annotated_types.MinLen):
            found.append(f"at least {item.min_length}")
    return found
