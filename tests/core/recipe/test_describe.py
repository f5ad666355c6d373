"""How a config model is put into words."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import Field

from vtp_core.config import ObjectiveConfig, Table
from vtp_core.recipe.writing.describe import config_keys
from vtp_core.schedule import Scheduled


class Inner(Table):
    """A table."""

    depth: int = 2


class Config(ObjectiveConfig):
    """Every kind of field."""

    required: str
    """Has to be
    set."""
    flag: bool = False
    bounded: Annotated[int, Field(ge=1, lt=4)] = 2
    optional: Annotated[float, Field(gt=0)] | None = None
    choice: Literal["a", "b"] = "a"
    names: Annotated[tuple[str, ...], Field(min_length=1)] = ("x",)
    pair: tuple[float, float] = (0.1, 0.5)
    scheduled: Scheduled = 0.5
    table: dict[str, int] = Field(default_factory=dict)
    inner: Inner = Inner()


KEYS = {key.key: key for key in config_keys(Config)}


@pytest.mark.parametrize(
    ("key", "words", "default"),
    [
        ("required", "string", None),
        ("flag", "true or false", False),
        ("bounded", "integer (>= 1, < 4)", 2),
        ("optional", "number (> 0) | unset", None),
        ("choice", '"a" | "b"', "a"),
        ("names", "list of string (at least 1)", ["x"]),
        ("pair", "[number, number]", [0.1, 0.5]),
        ("scheduled", "number | schedule", 0.5),
        ("table", "table of integer", {}),
        ("inner", "table", {"depth": 2}),
    ],
)
def test_types_and_defaults(key, words, default):
    assert (KEYS[key].type, KEYS[key].default) == (words, default)


def test_docs_are_one_line_and_only_what_has_no_default_is_required():
    assert KEYS["required"].doc == "Has to be set."
    assert {key.key for key in KEYS.values() if key.required} == {"required", "use"}


def test_own_keys_come_before_those_of_the_kind():
    names = list(KEYS)
    assert names.index("inner") < names.index("use") < names.index("weight")
