"""Every key of a recipe is explained, and the explanation is the docstring below it."""

from typing import Annotated

import pytest
from pydantic import BaseModel, Field, create_model

from vtp_core.plugins import load_plugins
from vtp_core.recipe.tables.recipe import FrozenConfig, Recipe
from vtp_core.recipe.writing.docs import key_docs
from vtp_core.recipe.writing.json_schema import SLOTS
from vtp_core.schedule import Cosine


class Below(BaseModel):
    one: int
    """The
    first."""
    two: Annotated[int, Field(description="Said otherwise.")] = 2
    """Not this."""
    three: int = 3
    four: int = 4

    """A class may hold other strings."""


class Further(Below):
    three: int = 5
    """Now explained."""


def test_docstrings_below_fields_are_their_meaning() -> None:
    assert key_docs(Below) == {
        "one": "The\nfirst.",
        "two": "Said otherwise.",
        "four": "A class may hold other strings.",
    }
    assert key_docs(Further) == key_docs(Below) | {"three": "Now explained."}


def test_a_class_without_source_has_none() -> None:
    assert key_docs(create_model("Made", x=(int, 1))) == {}


CORE = [Recipe, FrozenConfig, Cosine] + [
    field.annotation
    for field in Recipe.model_fields.values()
    if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
]


@pytest.mark.parametrize("model", CORE, ids=lambda model: model.__name__)
def test_every_key_of_the_core_is_explained(model: type[BaseModel]) -> None:
    assert key_docs(model).keys() >= model.model_fields.keys()


def test_every_key_of_a_built_in_component_is_explained() -> None:
    missing = []
    for component in load_plugins().components():
        config = component.load_config() if component.kind in SLOTS else None
        if component.distribution == "vtp-core" and config is not None:
            missing += [
                f"{component.kind} {component.name}: {key}"
                for key in config.model_fields.keys() - key_docs(config).keys()
            ]
    assert missing == []
