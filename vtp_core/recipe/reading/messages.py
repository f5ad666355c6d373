"""Translates pydantic's errors into messages about a recipe, one for each key path. Imports no torch."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from vtp_core.recipe.problems import closest, did_you_mean
from vtp_core.recipe.reading.familiar import advice
from vtp_core.recipe.reading.keys import known_keys
from vtp_core.recipe.toml_lines import Path

if TYPE_CHECKING:
    from vtp_core.plugins import Plugins

_EXPECTED = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "string_type": "a string",
    "bool_type": "true or false",
    "dict_type": "a table",
    "mapping_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
    "tuple_type": "a list",
    "list_type": "a list",
}


class Finding:
    """One error of a value.

    Attributes:
        path: From the value to the wrong key.
        message: One line.
        affects: Paths whose values are uncertain because of it; empty for an unknown key.
        present: Whether there is a value at `path`.
    """

    def __init__(self, path: Path, message: str, affects: tuple[Path, ...], present: bool) -> None:
        self.path = path
        self.message = message
        self.affects = affects
        self.present = present


def findings(error: ValidationError, annotation: Any, value: Any, plugins: Plugins) -> list[Finding]:
    """The errors of a value, at most one for each path.

    Args:
        error: Pydantic's error.
        annotation: Declared type of the value.
        value: The plain TOML value that was checked.
        plugins: For the config classes of components.
    """
    found: dict[Path, Finding] = {}
    for details in error.errors(include_url=False):
        finding = _finding(dict(details), annotation, value, plugins)
        known = found.setdefault(finding.path, finding)
        if finding.message not in known.message:
            known.message += f", or: {finding.message}"
    return list(found.values())


def _finding(details: dict[str, Any], annotation: Any, value: Any, plugins: Plugins) -> Finding:
    path, at, present = _own_path(details, value)
    if details["type"] == "extra_forbidden":
        name = str(path[-1])
        known = known_keys(annotation, value, path[:-1], plugins)
        meant = closest(name, known)
        affects = ((*path[:-1], meant),) if meant else ()
        return Finding(path, f"unknown key; {advice(name, known)}", affects, present)
    return Finding(path, _message(details, at), (path,), present)


def _own_path(details: dict[str, Any], value: Any) -> tuple[Path, Any, bool]:
    """An error's location without union branches, the value there, and whether there is one."""
    path: Path = ()
    location = details["loc"]
    for index, part in enumerate(location):
        if (isinstance(value, dict) and part in value) or (
            isinstance(value, list) and isinstance(part, int) and part < len(value)
        ):
            value = value[part]
            path = (*path, part)
        elif index == len(location) - 1 and _is_absent(details, value):
            return (*path, part), None, False
    return path, value, True


def _is_absent(details: dict[str, Any], table: Any) -> bool:
    """Whether the last part of an error's location is a missing key, not the name of a union branch."""
    return isinstance(table, dict) and (details["type"] == "missing" or details["loc"][-1] == "use")


def _message(details: dict[str, Any], value: Any) -> str:
    kind = details["type"]
    context = details.get("ctx", {})
    if kind == "missing":
        return "missing; this key is required"
    if kind in _EXPECTED:
        schedule = " or a schedule table" if "number" in details["loc"] else ""
        return f"expected {_EXPECTED[kind]}{schedule}, got {_shown(value)}{_remedy(_EXPECTED[kind], value)}"
    if kind in ("union_tag_not_found", "union_tag_invalid") and "schedule" in details["loc"]:
        return 'a schedule table needs kind = "constant", "linear", "cosine", "step" or "wsd"'
    key = str(context.get("discriminator", "")).strip("'")
    if kind == "union_tag_not_found":
        return f"missing; the key {key} says what the table is"
    if kind == "union_tag_invalid":
        expected = [tag.strip("'") for tag in context["expected_tags"].split(", ")]
        return f'unknown {key} "{context["tag"]}"; {did_you_mean(context["tag"], expected)}'
    if kind == "literal_error":
        expected = context["expected"].replace("'", '"')
        return f"expected {expected}, got {_shown(value)}"
    if kind == "value_error":
        return str(context["error"])
    message = str(details["msg"])
    if message.startswith("Input should "):
        return f"{message.removeprefix('Input ')}, got {_shown(value)}"
    return message


def _remedy(expected: str, value: Any) -> str:
    """How a value of the wrong type is written, where that is plain."""
    if expected == "an integer" and isinstance(value, float) and value.is_integer():
        return f"; write {int(value)}"
    if expected == "a table" and isinstance(value, bool):
        return "; write {} for its defaults" if value else "; leave the key out"
    return ""


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return f"a list of {len(value)}" if len(value) > 8 else json.dumps(value, default=str)
    text = json.dumps(value, default=str, ensure_ascii=False)
    if len(text) > 60:
        text = f"{text[:57]}..."
    return f"the string {text}" if isinstance(value, str) else text
