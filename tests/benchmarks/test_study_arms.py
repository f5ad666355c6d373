from __future__ import annotations

import json
import math
from pathlib import Path

import click
import pytest

from benchmarks.study.arm import Arm, Run, runs_of
from benchmarks.study.command import choose
from benchmarks.study.data import data_overrides
from benchmarks.study_objectives.arms import HEADS, MAIN, make_arms
from benchmarks.study_objectives.verdict import UNIFORM
from vtp_core.recipe import Recipe, load_recipe


def recipe_of(run: Run, *extra: str) -> Recipe:
    return load_recipe(str(run.arm.recipe), [*run.overrides, *extra])


def test_every_arm_is_a_valid_recipe_and_tiny_arms_are_too() -> None:
    for tiny in (False, True):
        for arm in make_arms(tiny):
            assert recipe_of(Run(arm, 0)).run.seed == 0


def test_the_main_arms_differ_in_objectives_alone() -> None:
    recipes = {name: recipe_of(Run(arm, 0)) for name, arm in zip(MAIN, make_arms(), strict=False)}
    names = {name: set(recipe.objectives) for name, recipe in recipes.items()}
    rec, clip, ssl = {"l1", "perceptual"}, {"clip"}, {"dino", "mim", "koleo"}
    assert names == {
        "ae": rec, "clip_ae": rec | clip, "ssl_ae": rec | ssl, "clip_ssl_ae": rec | clip | ssl
    }  # fmt: skip
    full = recipes["clip_ssl_ae"]
    for recipe in recipes.values():
        assert recipe.run.model_copy(update={"out": full.run.out}) == full.run
        for part in ("data", "encoder", "bottleneck", "decoder", "optimizer", "ema", "evaluate"):
            assert getattr(recipe, part) == getattr(full, part)
        for name, table in recipe.objectives.items():
            assert table == full.objectives[name]
        for name, view in recipe.views.items():
            assert view == full.views[name]


def test_the_arms_of_the_issue_are_there_with_their_seeds() -> None:
    arms = {arm.name: arm for arm in make_arms()}
    assert {name for name, arm in arms.items() if arm.seeds == (0, 1, 2)} == {f"{name}_d4" for name in MAIN}
    weights = set()
    for name in ("clip_ssl_ae_d4", "lambda_1", "lambda_0.3", "lambda_0.03"):
        objectives = recipe_of(Run(arms[name], 0)).objectives
        assert objectives["l1"].weight == objectives["perceptual"].weight
        weights.add(objectives["l1"].weight)
    assert weights == {1.0, 0.3, 0.1, 0.03}
    through = recipe_of(Run(arms["through_bottleneck"], 0)).objectives
    beside = recipe_of(Run(arms["clip_ssl_ae_d4"], 0)).objectives
    for name in HEADS:
        assert through[name].model_dump()["bottleneck"] is True
        assert beside[name].model_dump()["bottleneck"] is False


def test_the_verdict_knows_the_entropy_of_uniform_targets() -> None:
    for arm in make_arms():
        objectives = recipe_of(Run(arm, 0)).objectives
        if "dino" in objectives:
            assert math.log(objectives["dino"].model_dump()["prototypes"]) == UNIFORM


def test_seeds_come_in_turns_and_can_be_chosen() -> None:
    arms = [
        Arm(name="a", about="", recipe=Path("a"), seeds=(0, 1)),
        Arm(name="b", about="", recipe=Path("b")),
    ]
    runs = runs_of(arms)
    assert [run.name for run in runs] == ["a_seed0", "b_seed0", "a_seed1"]
    assert [run.name for run in choose(runs, "a", None)] == ["a_seed0", "a_seed1"]
    assert [run.name for run in choose(runs, None, "0")] == ["a_seed0", "b_seed0"]
    with pytest.raises(click.ClickException, match="no arm 'c'"):
        choose(runs, "a,c", None)
    with pytest.raises(click.ClickException, match="seed '7'"):
        choose(runs, None, "7")


def test_a_digest_changes_with_each_value_and_with_the_recipe(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("[run]\nsteps = 1\n")
    arm = Arm(name="a", about="", recipe=recipe)
    first = Run(arm, 0).digest()
    assert first == Run(arm, 0).digest() and len(first) == 16
    assert first != Run(arm, 1).digest()
    assert first != Run(Arm(name="a", about="", recipe=recipe, overrides=("encoder.width=8",)), 0).digest()
    recipe.write_text("[run]\nsteps = 2\n")
    assert first != Run(arm, 0).digest()


def test_data_are_the_samples_or_shards_that_recipes_take(tmp_path: Path) -> None:
    assert data_overrides(None) == ("samples", ())
    with pytest.raises(click.ClickException, match="cifar10-train"):
        data_overrides(tmp_path)
    for name in ("cifar10-train-00000.tar", "cifar10-train-00001.tar", "cifar10-test-00000.tar"):
        (tmp_path / name).touch()
    (tmp_path / "cifar10-classes.json").write_text(json.dumps(["cat", 'a "dog"']))
    name, overrides = data_overrides(tmp_path)
    recipe = recipe_of(Run(make_arms()[0], 0), *overrides)
    assert name == "cifar10"
    train, held_out = recipe.data.source.model_dump(), (recipe.evaluate.source or recipe).model_dump()
    assert [Path(url).name for url in train["urls"]] == ["cifar10-train-00000.tar", "cifar10-train-00001.tar"]
    assert [Path(url).name for url in held_out["urls"]] == ["cifar10-test-00000.tar"]
    assert train["classes"] == ("cat", 'a "dog"') and train["caption"] == "a photo of a {class}"
