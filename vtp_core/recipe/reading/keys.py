"""Which keys a table of a recipe may have, and which model checks it. Imports no torch."""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from vtp_core.config import ComponentConfig, base_config
from vtp_core.errors import UsageError
from vtp_core.recipe.tables.recipe import FrozenConfig
from vtp_core.recipe.tables.slot import DEFAULTS, Slot
from vtp_core.recipe.toml_lines import Path

if TYPE_CHECKING:
    from vtp_core.plugins import Plugins
    from vtp_core.plugins.hookspecs import Kind


def field_type(field: FieldInfo) -> Any:
    """A field's annotation with its metadata."""
    return Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation


def key_of(name: str, field: FieldInfo) -> str:
    """A field's key in TOML."""
    return field.alias or name


def known_keys(annotation: Any, value: Any, path: Path, plugins: Plugins) -> set[str]:
    """Keys of the table at `path` below a value.

    Args:
        annotation: Declared type of the value.
        value: Plain TOML value.
        path: From the value to the table.
        plugins: For the config classes of components.
    """
    choices = list(_models(annotation, value, plugins))
    for part in path:
        inner = [found for choice in choices for found in _step(choice, part)]
        value = value[part]
        choices = [model for found in inner for model in _models(found, value, plugins)]
    return {key for choice in choices for key in _fields(choice)}


def component_tables(
    annotation: Any, value: Any, plugins: Plugins, path: Path = ()
) -> Iterator[tuple[Path, type[ComponentConfig]]]:
    """Path and config class of each component's table in a value, outer tables first.

    Args:
        annotation: Declared type of the value.
        value: TOML or JSON data, checked or not.
        plugins: For the config classes of components.
        path: Path of the value itself.
    """
    for choice in _models(annotation, value, plugins):
        if isinstance(value, dict) and isinstance(choice, type) and issubclass(choice, ComponentConfig):
            yield path, choice
        children = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
        for part in children:
            for inner in _step(choice, part):
                yield from component_tables(inner, value[part], plugins, (*path, part))


def _models(annotation: Any, value: Any, plugins: Plugins) -> Iterator[Any]:
    """Model classes and generic containers that an annotation allows for this value."""
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *metadata = get_args(annotation)
        slots = [entry for entry in metadata if isinstance(entry, Slot)]
        if slots:
            yield config_class(slots[0].kind, value, plugins)
        else:
            yield from _models(inner, value, plugins)
    elif origin is Union or isinstance(annotation, types.UnionType):
        for member in get_args(annotation):
            yield from _models(member, value, plugins)
    elif annotation is FrozenConfig:
        yield config_class("encoder", value, plugins)
        yield FrozenConfig
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if _kind_fits(annotation, value):
            yield annotation
    elif origin is not None:
        yield annotation


def _kind_fits(model: type[BaseModel], value: Any) -> bool:
    """Whether a model with a `kind` is the one that the table names."""
    field = model.model_fields.get("kind")
    given = value.get("kind") if isinstance(value, dict) else None
    return field is None or given is None or given in get_args(field.annotation)


def config_class(kind: Kind, table: Any, plugins: Plugins) -> type[ComponentConfig]:
    """The model of a component's table; the base class of its kind if the component is unknown or broken."""
    use = table.get("use", DEFAULTS.get(kind)) if isinstance(table, dict) else None
    try:
        return plugins.find(kind, use if isinstance(use, str) else "").load_config()
    except UsageError:
        return base_config(kind)


def _step(choice: Any, part: str | int) -> Iterable[Any]:
    """Types of the value at a key or index."""
    if isinstance(choice, type) and issubclass(choice, BaseModel):
        fields = _fields(choice)
        return [field_type(fields[part])] if isinstance(part, str) and part in fields else []
    arguments = get_args(choice)
    return arguments[-1:] if isinstance(part, str) else arguments


def _fields(choice: Any) -> dict[str, FieldInfo]:
    if not (isinstance(choice, type) and issubclass(choice, BaseModel)):
        return {}
    fields = {key_of(name, field): field for name, field in choice.model_fields.items()}
    if choice is FrozenConfig:
        del fields["encoder"]
    return {key: field for key, field in fields.items() if not field.exclude}
