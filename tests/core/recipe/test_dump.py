"""What `dump_toml` writes is TOML, loads to an equal recipe and says where values came from."""

import math
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomlkit
from hypothesis import given
from hypothesis import strategies as st

from tests.core.recipe.conftest import RECIPE
from vtp_core.plugins import Plugins
from vtp_core.recipe import Recipe, dump_toml, load_recipe
from vtp_core.recipe.writing.dump import literal

Load = Callable[..., Recipe]

RICH = {
    "lr = 1e-3": 'lr = { kind = "cosine", start = 1e-3, warmup = 5 }\nclip = inf\nowners.encoder.lr = 0.1',
    "size = 32": 'size = 32\nmasks = {}\nsource = "more"\n'
    'crops = { global = { count = 2 }, "l o.c" = { size = 16 } }',
    "[data]": '[data.sources.more]\nuse = "drawn"\ncaptions = true\nkind = "noise"\n[data]',
    "[run]": 'freeze = ["encoder"]\nema = { momenta = { "tokenizer.decoder" = 0.5 } }\n[run]',
    'use = "pair"': 'use = "pair"\nweight = { kind = "step", values = [0, 1], at_steps = [5] }',
    'use = "narrow"': 'use = "narrow"\ninner = { name = "tab\\t \\"quoted\\" \\\\ é \\u007f" }',
    "[encoder]": '[frozen.dino]\nuse = "grid"\npatch = 4\nweights = "w.safetensors"\n'
    '[evaluators.s]\nuse = "score"\n[encoder]',
}


@pytest.mark.parametrize("changes", [{}, RICH], ids=["plain", "rich"])
@pytest.mark.parametrize("sources", [False, True])
def test_what_is_written_loads_to_an_equal_recipe(
    load: Load, plugins: Plugins, changes: dict[str, str], sources: bool
) -> None:
    recipe = load(changes, "run.seed=3")
    text = dump_toml(recipe, sources)
    Path("resolved.toml").write_text(text, "utf-8")
    again = load_recipe("resolved.toml", (), plugins)
    assert again == recipe
    assert dump_toml(again) == dump_toml(recipe)
    assert tomllib.loads(text) == tomlkit.parse(text).unwrap()


def test_recipes_that_differ_are_not_equal(load: Load) -> None:
    assert load() != load(None, "run.seed=1")
    assert load() != load(None, "encoder.depth=5")
    assert load() == load({"[run]": "\n\n[run]"})


def test_defaults_are_spelled_out(load: Load) -> None:
    values = tomllib.loads(dump_toml(load()))
    assert values["schema"] == 1
    assert values["run"]["out"] == "runs/base"
    assert values["encoder"] == {"use": "grid", "patch": 8, "depth": 4, "sizes": [1, 2]}
    assert values["views"]["image"]["crops"] == {"global": {"count": 1}}
    assert "provenance" not in values


def test_frozen_networks_are_flat_tables(load: Load) -> None:
    recipe = load(RICH)
    assert recipe.frozen["dino"].weights == "w.safetensors"
    assert recipe.frozen["dino"].encoder.patch == 4
    assert tomllib.loads(dump_toml(recipe))["frozen"]["dino"]["weights"] == "w.safetensors"


def test_sources_are_behind_the_values(load: Load) -> None:
    text = dump_toml(load({"steps = 20": "steps = 20 # [paper] table 1"}, "run.seed=3"), sources=True)
    lines = text.splitlines()
    assert "steps = 20  # [paper] recipe.toml:4" in lines
    assert "seed = 3  # command line -s" in lines
    assert 'device = "auto"  # default' in lines
    for line in lines:
        assert not line or line.startswith("[") or "  # " in line


def test_an_origin_survives_being_shown(load: Load, plugins: Plugins) -> None:
    Path("shown.toml").write_text(
        dump_toml(load({"steps = 20": "steps = 20 # [author]"}), sources=True), "utf-8"
    )
    assert load_recipe("shown.toml", (), plugins).provenance["run.steps"].tag == "author"


scalars = (
    st.text() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.booleans() | st.datetimes()
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@given(values)
def test_any_value_is_read_back(value: Any) -> None:
    assert tomllib.loads(f"v = {literal(value)}")["v"] == value


def test_other_values() -> None:
    assert math.isnan(tomllib.loads(f"v = {literal(math.nan)}")["v"])
    assert literal((Path("a/b"), frozenset({2, 1}))) == '["a/b", [1, 2]]'
    with pytest.raises(TypeError, match="TOML has no complex"):
        literal(1j)


def test_the_recipe_of_these_tests_has_no_duplicate_lines() -> None:
    assert all(RECIPE.count(old) == 1 for old in RICH)
