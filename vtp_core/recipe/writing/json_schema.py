"""JSON schema of recipes with all installed components, for editors. Imports no torch.

A file may extend another, so the schema requires no key; a component's keys are known only beside `use`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from vtp_core.errors import UsageError
from vtp_core.plugins.own import OWN
from vtp_core.recipe.reading.files import FROM, PARTS
from vtp_core.recipe.reading.keys import key_of
from vtp_core.recipe.tables.recipe import Recipe
from vtp_core.recipe.tables.slot import DEFAULTS, SHORT, SLOT_KEY
from vtp_core.recipe.writing.docs import key_docs

if TYPE_CHECKING:
    from vtp_core.plugins import Component, Kind, Plugins

SLOTS: tuple[Kind, ...] = (
    "encoder", "bottleneck", "decoder", "objective", "optimizer", "source", "augmentation", "evaluator",
    "callback",
)  # fmt: skip
"""Kinds of component that a recipe can choose."""

_STRINGS = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}


class _WithDocs(GenerateJsonSchema):
    """Adds the description of each key."""

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        generated = super().model_schema(schema)
        model = schema["cls"]
        for name, doc in key_docs(model).items():
            if found := generated.get("properties", {}).get(key_of(name, model.model_fields[name])):
                found["description"] = " ".join(doc.split())
        return generated


def recipe_schema(plugins: Plugins) -> dict[str, Any]:
    """JSON schema (2020-12) of a recipe's file, without broken components."""
    definitions: dict[str, Any] = {}
    schema = _model_schema(Recipe, "", definitions)
    del schema["properties"]["provenance"], definitions["Origin"]
    for kind in SLOTS:
        definitions[kind] = _slot(kind, plugins, definitions)
    weights = {"weights": {"type": "string", "description": "File or name of the network's weights."}}
    definitions["FrozenConfig"] = {"allOf": [{"$ref": "#/$defs/encoder"}], "properties": weights}
    schema["title"] = "vtp recipe"
    schema["properties"] |= {
        "extends": _STRINGS | {"description": "Base recipe or recipes, relative to this file."},
        "drop": _STRINGS
        | {"description": "Keys or tables of the base recipes to remove, such as objectives.clip."},
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "$defs": definitions}


def _slot(kind: Kind, plugins: Plugins, definitions: dict[str, Any]) -> dict[str, Any]:
    """A component's table, whose keys depend on `use`."""
    branches = {}
    for component in plugins.components(kind):
        try:
            branches[component.name] = _component_schema(component, definitions)
        except UsageError:
            continue
    table: dict[str, Any] = {
        "type": "object",
        "properties": {"use": {"description": f"Name of the {kind}.", "enum": list(branches)}},
        "allOf": [{"if": _chosen(kind, name), "then": schema} for name, schema in branches.items()],
    }
    if kind in PARTS:
        table["properties"][FROM] = {"type": "string", "description": "Tokenizer whose keys these are."}
    own = [component.name for component in OWN if component.kind == kind]
    return {"anyOf": [{"enum": own}, table]} if kind in SHORT else table


def _chosen(kind: Kind, name: str) -> dict[str, Any]:
    chosen: dict[str, Any] = {"properties": {"use": {"const": name}}}
    return chosen if DEFAULTS.get(kind) == name else chosen | {"required": ["use"]}


def _component_schema(component: Component, definitions: dict[str, Any]) -> dict[str, Any]:
    schema = _model_schema(component.load_config(), f"{component.kind}.{component.name}.", definitions)
    schema["description"] = component.summary
    return schema


def _model_schema(model: type[BaseModel], prefix: str, definitions: dict[str, Any]) -> dict[str, Any]:
    """Schema of a model; nested models go to `definitions`, their names prefixed."""
    schema = model.model_json_schema(ref_template=f"#/$defs/{prefix}{{model}}", schema_generator=_WithDocs)
    inner = schema.pop("$defs", {})
    definitions.update({f"{prefix}{name}": _without_required(found) for name, found in inner.items()})
    cleaned = _without_required(schema)
    assert isinstance(cleaned, dict)
    return cleaned


def _without_required(schema: Any) -> Any:
    """A copy without `required`, with slots replaced by references to their definitions."""
    if isinstance(schema, dict) and SLOT_KEY in schema:
        return {"$ref": f"#/$defs/{schema[SLOT_KEY]}"}
    if isinstance(schema, dict):
        return {
            key: _without_required(value)
            for key, value in schema.items()
            if not (key == "required" and isinstance(value, list))
        }
    if isinstance(schema, list):
        return [_without_required(entry) for entry in schema]
    return schema
