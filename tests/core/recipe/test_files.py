"""Extending, dropping, overriding; and that every value's place is that of the file that set it."""

from collections.abc import Callable

import pytest

from tests.core.recipe.conftest import RECIPE
from vtp_core.errors import UsageError
from vtp_core.plugins import Plugins
from vtp_core.recipe import Recipe, RecipeErrors, load_recipe
from vtp_core.recipe.problems import Origin

Write = Callable[..., str]


def message(write: Write, plugins: Plugins, text: str, *overrides: str) -> str:
    with pytest.raises(RecipeErrors) as caught:
        load_recipe(write(text), overrides, plugins)
    (problem,) = caught.value.problems
    return f"{problem.place} {problem.key} {problem.message}"


def test_tables_merge_key_by_key(write: Write, plugins: Plugins) -> None:
    write(RECIPE, "bases/base.toml")
    text = 'extends = "bases/base.toml"\n[run]\nseed = 7\n[views.image]\nrows = 8 # [paper]\n'
    recipe = load_recipe(write(text), (), plugins)
    assert (recipe.run.steps, recipe.run.seed) == (20, 7)
    assert (recipe.views["image"].rows, recipe.views["image"].size) == (8, 32)
    assert recipe.name == "base"
    assert recipe.provenance["run.steps"] == Origin("bases/base.toml", 4)
    assert recipe.provenance["run.seed"] == Origin("recipe.toml", 3)
    assert recipe.provenance["views.image.rows"] == Origin("recipe.toml", 5, "paper")
    assert "run.device" not in recipe.provenance


def test_the_last_of_several_files_wins_and_the_recipe_over_all(write: Write, plugins: Plugins) -> None:
    write(RECIPE, "base.toml")
    write("[run]\nsteps = 1\nseed = 1\nlog_every = 1\n", "one.toml")
    write("[run]\nsteps = 2\nseed = 2\n", "two.toml")
    text = 'extends = ["base.toml", "one.toml", "two.toml"]\n[run]\nsteps = 3\n'
    run = load_recipe(write(text), (), plugins).run
    assert (run.steps, run.seed, run.log_every) == (3, 2, 1)


def test_another_component_starts_from_nothing_and_the_same_one_does_not(
    write: Write, plugins: Plugins
) -> None:
    write(RECIPE.replace('use = "grid"', 'use = "grid"\npatch = 4'), "base.toml")
    same = load_recipe(write('extends = "base.toml"\n[encoder]\nuse = "grid"\ndepth = 2\n'), (), plugins)
    assert (same.encoder.patch, same.encoder.depth) == (4, 2)
    text = 'extends = "base.toml"\n[bottleneck]\nuse = "plain"\n[encoder]\nuse = "narrow"\nchannels = 1\n'
    with pytest.raises(RecipeErrors) as caught:
        load_recipe(write(text), (), plugins)
    # Neither `channels` of the old bottleneck nor `patch` of the old encoder is left to be unknown.
    assert [problem.key for problem in caught.value.problems] == ["bottleneck.use", "encoder.use"]


def test_an_error_points_at_the_file_that_set_the_value(write: Write, plugins: Plugins) -> None:
    write(RECIPE.replace("rows = 16", "rows = 15"), "base.toml")
    with pytest.raises(RecipeErrors) as caught:
        load_recipe(write('extends = "base.toml"\nrun.sede = 1\n'), (), plugins, world_size=4)
    places = [(str(problem.place), problem.key) for problem in caught.value.problems]
    assert sorted(places) == [("base.toml:10", "views.image.rows"), ("recipe.toml:2", "run.sede")]


def test_drop_takes_tables_and_keys_out_of_what_is_extended(write: Write, plugins: Plugins) -> None:
    more = (
        '[views.more]\nrows = 4\nsize = 8\naugment = "crop"\n[objectives.more]\nuse = "pair"\nview = "more"\n'
    )
    write(RECIPE + more + "[run2]\n".replace("[run2]\n", ""), "base.toml")
    text = 'extends = "base.toml"\ndrop = ["objectives.more", "views.more", "bottleneck.channels"]\n'
    recipe = load_recipe(write(text + "[bottleneck]\nchannels = 9\n"), (), plugins)
    assert (list(recipe.objectives), list(recipe.views)) == (["pair"], ["image"])
    assert not any(key.startswith("objectives.more") for key in recipe.provenance)
    assert message(write, plugins, 'extends = "base.toml"\ndrop = ["views.mroe"]\n') == (
        'recipe.toml:2 drop what this recipe extends has no "views.mroe"'
    )


def test_a_chain_of_three_links_is_read_and_one_of_four_is_not(write: Write, plugins: Plugins) -> None:
    write(RECIPE, "d.toml")
    write('extends = "d.toml"\n', "c.toml")
    write('extends = "c.toml"\n', "b.toml")
    assert load_recipe(write('extends = "b.toml"\n', "a.toml"), (), plugins).run.steps == 20
    assert message(write, plugins, '\nextends = "a.toml"\n') == (
        "c.toml:1 extends d.toml is more than 3 files deep"
    )


def test_a_circle_names_the_link_that_closes_it(write: Write, plugins: Plugins) -> None:
    write('extends = ["recipe.toml"]\n', "other.toml")
    assert message(write, plugins, 'extends = "./other.toml"\n') == (
        "other.toml:1 extends recipe.toml extends itself "
        "(recipe.toml -> other.toml -> recipe.toml); remove one of the links"
    )


def test_a_diamond_is_no_circle(write: Write, plugins: Plugins) -> None:
    write(RECIPE, "base.toml")
    write('extends = "base.toml"\nrun.seed = 1\n', "left.toml")
    write('extends = "base.toml"\n', "right.toml")
    text = 'extends = ["left.toml", "right.toml"]\n'
    assert load_recipe(write(text), (), plugins).run.steps == 20


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('extends = "no.toml"\n', "recipe.toml:1 extends there is no file no.toml"),
        ("extends = [\n1]\n", "recipe.toml:1 extends expected a string or a list of strings"),
        ("drop = 1\n", "recipe.toml:1 drop expected a string or a list of strings"),
    ],
)
def test_links_that_lead_nowhere(write: Write, plugins: Plugins, text: str, expected: str) -> None:
    assert message(write, plugins, text) == expected


def test_overrides_are_toml_or_else_strings(load: Callable[..., Recipe]) -> None:
    recipe = load(
        None,
        "run.steps=5",
        "run.out=runs/other",
        'freeze=["encoder"]',
        "encoder.sizes = [1, 2]",
        "optimizer.lr={ kind = 'cosine', start = 1.0 }",
        "views.image.crops.local.count=3",
        "name=has-dashes",
        "run.steps=6",
    )
    assert (recipe.run.steps, recipe.run.out, recipe.freeze, recipe.name) == (
        6,
        "runs/other",
        ("encoder",),
        "has-dashes",
    )
    assert recipe.views["image"].crops["local"].count == 3
    assert recipe.optimizer.lr.start == 1.0
    assert recipe.provenance["run.steps"] == Origin("command line -s", 0)
    assert recipe.provenance["optimizer.lr.start"] == Origin("command line -s", 0)
    assert recipe.provenance["run"] == Origin("recipe.toml", 3)


def test_an_override_may_choose_another_component(load: Callable[..., Recipe]) -> None:
    with pytest.raises(RecipeErrors) as caught:
        load(None, "bottleneck.use=crashing")
    assert [(str(problem.place), problem.key) for problem in caught.value.problems] == [
        ("command line -s", "bottleneck.use")
    ]


@pytest.mark.parametrize(
    ("override", "key", "words"),
    [
        ("run.stpes=3", "run.stpes", 'did you mean "steps"?'),
        ("run.steps", "run.steps", "expected KEY.PATH=VALUE"),
        ("=3", "", "expected KEY.PATH=VALUE"),
        ("run..steps=3", "run..steps", "expected KEY.PATH=VALUE"),
        ("run.steps.x=3", "run.steps.x", "run.steps is not a table"),
        ("run.steps=many", "run.steps", 'got the string "many"'),
        ("extends=a.toml", "extends", "belongs in the recipe's file"),
        ("run.out=1\nseed = 5", "run.out", "expected"),
    ],
)
def test_wrong_overrides(load: Callable[..., Recipe], override: str, key: str, words: str) -> None:
    if "\n" in override:  # what would smuggle in a second key is one string
        assert load(None, override).run.out == "1\nseed = 5"
        return
    with pytest.raises(RecipeErrors) as caught:
        load(None, override)
    (problem,) = caught.value.problems
    assert (str(problem.place), problem.key) == ("command line -s", key)
    assert words in problem.message


def test_names_come_from_the_file_and_fill_the_run_folder(write: Write, plugins: Plugins) -> None:
    text = RECIPE.replace('name = "base"\n', "")
    recipe = load_recipe(write(text, "my recipe (2).toml"), (), plugins)
    assert (recipe.name, recipe.run.out) == ("my-recipe-2", "runs/my-recipe-2")
    assert load_recipe(write(text), ["run.out=/data/<name>/x"], plugins).run.out == "/data/recipe/x"


def test_a_recipe_that_is_nowhere(write: Write, plugins: Plugins) -> None:
    write("", "x.toml")
    with pytest.raises(UsageError, match=r'no recipe file .*"quikstart"; did you mean .*"quickstart"\?'):
        load_recipe("quikstart", (), plugins)
