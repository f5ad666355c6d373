"""`vtp plan` of the paper's recipes on 256 ranks. Recipes that differ in data alone are planned once."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator, Mapping

import pytest

from tests.recipes.names import PAPER
from vtp_core.plugins import load_plugins
from vtp_core.recipe import Recipe, load_recipe
from vtp_plugins.plan.plan import make_plan

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

PLUGINS = load_plugins()
TABLE_1 = {"ae_vit_b": 87.7e9, "ae_vit_l": 311.1e9, "ae_cnn": 389.4e9}


def _distinct() -> Mapping[str, Recipe]:
    """One recipe of each set of recipes that ask for the same computation."""
    found: dict[str, tuple[str, Recipe]] = {}
    for name in PAPER:
        recipe = load_recipe(name, (), PLUGINS, world_size=256)
        same = recipe.model_dump_json(exclude={"name": True, "data": True, "init_from": True, "run": {"out"}})
        found.setdefault(same, (name, recipe))
    return dict(found.values())


@pytest.fixture(autouse=True)
def _memory_is_given_back() -> Iterator[None]:
    """glibc keeps what a plan freed, up to a gigabyte each: 26 plans in one process would not fit."""
    yield
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


@pytest.mark.parametrize(("name", "recipe"), _distinct().items(), ids=_distinct())
def test_plans_on_256_ranks(name: str, recipe: Recipe) -> None:
    plan = make_plan(recipe, PLUGINS, 256)
    grouped = [objective for group in plan.groups for objective in group.objectives]
    assert sorted(grouped) == sorted(recipe.objectives)
    if name in TABLE_1:
        assert plan.flops_table1 == pytest.approx(TABLE_1[name], rel=0.01)
    joint = {"clip", "dino", "mim", "koleo", "l1", "perceptual"}
    if joint <= set(recipe.objectives):
        groups = {frozenset(group.objectives) for group in plan.groups}
        assert groups == {
            frozenset({"clip"}),
            frozenset({"dino", "mim", "koleo"}),
            frozenset({"l1", "perceptual"}),
        }
        encodes = [work for work in plan.works if work.verb == "encode" and work.view == "ssl"]
        assert sorted(work.role for work in encodes) == ["student", "teacher"]
    assert plan.memory.total < 80 * 2**30
