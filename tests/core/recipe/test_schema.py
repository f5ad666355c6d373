"""The JSON schema: complete, and in agreement with the checks."""

import json
import subprocess
import sys
from typing import Any

from vtp_core.plugins import Plugins
from vtp_core.recipe import Recipe
from vtp_core.recipe.writing.json_schema import recipe_schema


def references(schema: Any) -> set[str]:
    if isinstance(schema, dict):
        own = {schema["$ref"]} if isinstance(schema.get("$ref"), str) else set()
        return own.union(*map(references, schema.values()))
    return set().union(*map(references, schema)) if isinstance(schema, list) else set()


def test_every_reference_leads_somewhere(plugins: Plugins) -> None:
    schema = recipe_schema(plugins)
    assert references(schema) == {f"#/$defs/{name}" for name in schema["$defs"]} & references(schema)
    assert {"#/$defs/encoder", "#/$defs/objective", "#/$defs/RunConfig"} <= references(schema)
    json.dumps(schema, allow_nan=False)


def test_it_has_the_keys_of_a_recipe_with_their_meaning(plugins: Plugins) -> None:
    schema = recipe_schema(plugins)
    fields = {field.alias or name for name, field in Recipe.model_fields.items()} - {"provenance"}
    assert set(schema["properties"]) == fields | {"extends", "drop"}
    assert "Optimiser steps." in schema["$defs"]["RunConfig"]["properties"]["steps"]["description"]
    assert schema["$defs"]["RunConfig"]["additionalProperties"] is False


def test_a_component_is_explained_by_its_use(plugins: Plugins) -> None:
    encoder = recipe_schema(plugins)["$defs"]["encoder"]
    # `broken` can't be imported, so it is not offered.
    assert encoder["properties"]["use"]["enum"] == ["crashing", "grid"]
    grid = next(branch for branch in encoder["allOf"] if branch["if"]["properties"]["use"]["const"] == "grid")
    assert set(grid["then"]["properties"]) == {"use", "patch", "depth", "sizes"}


def test_the_cores_own_components_are_explained_too(plugins: Plugins) -> None:
    definitions = recipe_schema(plugins)["$defs"]
    names, table = definitions["augmentation"]["anyOf"]
    assert names == {"enum": ["none", "center", "center_flip", "clip", "crop", "dino", "dino_nominal"]}
    assert table["properties"]["use"]["enum"] == sorted(names["enum"])
    (adamw,) = definitions["optimizer"]["allOf"]
    assert adamw["if"] == {"properties": {"use": {"const": "adamw"}}}  # holds without `use` too
    assert {"use", "lr", "betas", "eps", "clip", "owners"} <= set(adamw["then"]["properties"])


def test_no_key_is_required_except_to_know_the_component(plugins: Plugins) -> None:
    def required(schema: Any) -> list[Any]:
        if isinstance(schema, dict):
            own = [schema["required"]] if isinstance(schema.get("required"), list) else []
            return own + [found for value in schema.values() for found in required(value)]
        return [found for value in schema for found in required(value)] if isinstance(schema, list) else []

    assert all(found == ["use"] for found in required(recipe_schema(plugins)))


def test_recipes_import_no_torch() -> None:
    code = (
        "import vtp_core.recipe, vtp_core.recipe.writing.json_schema, sys; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
