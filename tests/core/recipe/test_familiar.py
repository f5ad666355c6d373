"""Words of other frameworks are understood, or answered with the key that a recipe has."""

import pytest

from vtp_core.plugins import Plugins, load_plugins
from vtp_core.recipe import RecipeErrors, load_recipe
from vtp_core.recipe.reading.familiar import _PLACES
from vtp_core.recipe.tables.recipe import Recipe


@pytest.fixture(scope="module")
def installed() -> Plugins:
    return load_plugins()


def test_short_names_and_switches_are_understood(installed: Plugins) -> None:
    sets = ["run.precision=bf16", "parallel.compile=true", "parallel.activation_checkpoint=true"]
    recipe = load_recipe("quickstart", sets, installed)
    assert recipe.run.precision == "bfloat16"
    assert (recipe.parallel.compile, recipe.parallel.activation_checkpoint) == ("block", "block")
    off = ["run.precision=fp32", "parallel.compile=false", "parallel.activation_checkpoint=false"]
    recipe = load_recipe("quickstart", off, installed)
    assert recipe.run.precision == "float32"
    assert (recipe.parallel.compile, recipe.parallel.activation_checkpoint) == ("none", "none")


@pytest.mark.parametrize(
    ("given", "answer"),
    [
        ("run.precision=fp16", "use bfloat16"),
        ("bf16=true", 'unknown key; use run.precision = "bfloat16"'),
        ("compile=true", "unknown key; it is a key of [parallel]"),
        ("run.lr=1e-3", "unknown key; it is a key of [optimizer]"),
        ("ema=false", "leave the key out (averages are kept where an objective asks for a teacher, and of"),
        ("ema=true", "expected a table, got true; write {} for its defaults"),
        ("run.ema=false", "unknown key; it is a table of its own: [ema]"),
        ("batch_size=8", "unknown key; use views.NAME.rows"),
        ("views.image.image_size=8", "unknown key; use views.NAME.size"),
        ("optimizer.Learning-Rate=8", "unknown key; use optimizer.lr"),
        ("encoder.embed_dim=8", "unknown key; use width"),
        ("run.stepz=8", 'unknown key; did you mean "steps"?'),
        ("run.device=gpu", 'expected "auto", "cpu", "cuda" or "cuda:1", got the string "gpu"'),
        ("run.steps=1e3", "expected an integer, got 1000.0; write 1000"),
        ("evaluate=false", "expected a table, got false; leave the key out"),
        ("views.ssl.masks=true", "expected a table, got true; write {} for its defaults"),
        ("data.source=samples", 'expected a table with the key "use", such as { use = "samples" }'),
    ],
)
def test_the_right_key_is_named(installed: Plugins, given: str, answer: str) -> None:
    with pytest.raises(RecipeErrors) as caught:
        load_recipe("quickstart", [given], installed)
    assert answer in str(caught.value)


def test_what_is_recommended_exists(installed: Plugins) -> None:
    """Every dotted key in the advice is a key of a recipe; no name is listed twice."""
    shown = load_recipe("quickstart", (), installed)
    for place in _PLACES:
        table, dot, key = place.split()[0].partition(".")
        if dot and key.isidentifier() and table in Recipe.model_fields:
            assert key in type(getattr(shown, table)).model_fields, place
        elif table == "views":
            assert key.removeprefix("NAME.") in type(shown.views["image"]).model_fields, place
    names = [name for names in _PLACES.values() for name in names.split()]
    assert len(names) == len(set(names))
