"""Each way to get a recipe wrong gives its one message, at its line, and nothing more."""

from collections.abc import Callable

import pytest

from tests.core.recipe.conftest import RECIPE
from vtp_core.errors import UsageError
from vtp_core.plugins import Plugins
from vtp_core.recipe import Recipe, RecipeErrors, load_recipe
from vtp_core.recipe.problems import Problem

Load = Callable[..., Recipe]


def problems(load: Load, *arguments: object, **keywords: object) -> tuple[Problem, ...]:
    with pytest.raises(RecipeErrors) as caught:
        load(*arguments, **keywords)
    return caught.value.problems


def test_the_recipe_of_these_tests_is_right(load: Load) -> None:
    assert load().objectives["pair"].use == "pair"


# What is replaced, by what, and the line, key and words of the one error that follows.
ONE_TABLE = {
    "unknown key": (
        "steps = 20",
        "steps = 20\nstpes = 3",
        5,
        "run.stpes",
        'unknown key; did you mean "steps"?',
    ),
    "unknown table": ("[run]", "[runs]\nx = 1\n[run]", 3, "runs", 'did you mean "run"?'),
    "unknown key of a component": (
        'use = "grid"',
        'use = "grid"\npacth = 4',
        16,
        "encoder.pacth",
        '"patch"?',
    ),
    "unknown key far from all": (
        "channels = 4",
        "channels = 4\nzzz = 1",
        20,
        "bottleneck.zzz",
        "channels, inner, use",
    ),
    "unknown key, nested": (
        "channels = 4",
        "channels = 4\ninner = { dept = 2 }",
        20,
        "bottleneck.inner.dept",
        'did you mean "depth"?',
    ),
    "unknown key of a schedule": (
        "lr = 1e-3",
        'lr = { kind = "cosine", start = 1.0, peak = 2 }',
        28,
        "optimizer.lr.peak",
        "there are: end, kind",
    ),
    "wrong type": ("steps = 20", 'steps = "20"', 4, "run.steps", 'expected an integer, got the string "20"'),
    "float for integer": ("steps = 20", "steps = 20.0", 4, "run.steps", "expected an integer, got 20.0"),
    "boolean for integer": ("steps = 20", "steps = true", 4, "run.steps", "expected an integer, got true"),
    "string for number": (
        "lr = 1e-3",
        'lr = "fast"',
        28,
        "optimizer.lr",
        "expected a number or a schedule table",
    ),
    "value for table": ("[run]\nsteps = 20", "run = 3", 3, "run", "expected a table"),
    "value for tables": (
        '[objectives.pair]\nuse = "pair"\n',
        "[objectives]\npair = 3\n",
        25,
        "objectives.pair",
        'with the key "use"',
    ),
    "out of range": (
        "steps = 20",
        "steps = 0",
        4,
        "run.steps",
        "should be greater than or equal to 1, got 0",
    ),
    "wrong word": (
        '"clip"',
        '"klip"',
        12,
        "views.image.augment",
        '"none", "center", "center_flip", "clip", "crop", "dino", "dino_nominal" or a table such as',
    ),
    "schedule without kind": (
        "lr = 1e-3",
        "lr = { start = 1.0 }",
        28,
        "optimizer.lr",
        'needs kind = "constant"',
    ),
    "schedule of no kind": (
        "lr = 1e-3",
        'lr = { kind = "sine", start = 1.0 }',
        28,
        "optimizer.lr",
        'needs kind = "constant", "linear"',
    ),
    "schedule lacks a key": (
        "lr = 1e-3",
        'lr = { kind = "linear", end = 1.0 }',
        28,
        "optimizer.lr.start",
        "missing",
    ),
    "element of an array": (
        'use = "grid"',
        'use = "grid"\nsizes = [\n1,\n"two",\n]',
        18,
        "encoder.sizes[1]",
        'an integer, got the string "two"',
    ),
    "lacks a key": ("steps = 20", "seed = 1", 3, "run.steps", "missing"),
    "lacks a table": ("[run]\nsteps = 20", "", 1, "run", "missing"),
    "component without use": ('use = "grid"', "", 14, "encoder.use", "missing; names the encoder"),
    "use is no string": ('use = "grid"', "use = 3", 15, "encoder.use", "expected a string"),
    "unknown component": ('use = "grid"', 'use = "grit"', 15, "encoder.use", 'did you mean "grid"?'),
    "component of another kind": ('use = "grid"', 'use = "narrow"', 15, "encoder.use", "it is a bottleneck"),
    "plugin that is not installed": (
        'use = "pair"',
        'use = "foo.ntxent"',
        25,
        "objectives.pair.use",
        "pip install vtp-plugin-foo",
    ),
    "component whose config is broken": (
        'use = "grid"',
        'use = "broken"',
        15,
        "encoder.use",
        "no_such_package",
    ),
    "component whose check crashes": (
        'use = "grid"',
        'use = "crashing"',
        15,
        "encoder.use",
        "this check is broken",
    ),
    "rising pair": (
        "size = 32",
        "size = 32\nmasks = { ratio = [0.5, 0.1] }",
        12,
        "views.image.masks.ratio",
        "must not be above",
    ),
    "scale without random crop": (
        'augment = "clip"',
        'augment = "center"\ncrops = { global = { scale = [0.2, 1.0] } }',
        9,
        "views.image",
        "random",
    ),
    "reserved source": (
        "[data]",
        '[data.sources.default]\nuse = "drawn"\n[data]',
        6,
        "data.sources",
        '"default" is the name of data.source',
    ),
    "name that is no folder": ('name = "base"', 'name = "a/b"', 1, "name", "should match pattern"),
}


@pytest.mark.parametrize("case", ONE_TABLE)
def test_one_mistake_in_one_table_is_one_error(load: Load, case: str) -> None:
    old, new, line, key, words = ONE_TABLE[case]
    (problem,) = problems(load, {old: new})
    assert (problem.place.file, problem.place.line, problem.key) == ("recipe.toml", line, key)
    assert words in problem.message
    assert "\n" not in problem.message


def test_errors_are_printed_in_columns_and_counted(load: Load) -> None:
    with pytest.raises(RecipeErrors) as caught:
        load({"steps = 20": "steps = 0", "lr = 1e-3": "lrr = 1e-3"}, "run.sed=1")
    assert str(caught.value).splitlines() == [
        "recipe.toml:4    run.steps      should be greater than or equal to 1, got 0",
        "recipe.toml:27   optimizer.lr   missing; this key is required",
        'recipe.toml:28   optimizer.lrr  unknown key; did you mean "lr"?',
        'command line -s  run.sed        unknown key; did you mean "seed"?',
        "4 errors; nothing was started.",
    ]
    assert caught.value.exit_code == 2


FILES = {
    "not TOML": ("a = 1\nb = = 2\n", 2, "not valid TOML: Invalid value"),
    "twice": ("[run]\nsteps = 1\nsteps = 2\n", 3, "not valid TOML"),
    "open string": ('a = "x', 1, "not valid TOML"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_is_not_toml(case: str, write: Callable[..., str], plugins: Plugins) -> None:
    text, line, words = FILES[case]
    with pytest.raises(RecipeErrors) as caught:
        load_recipe(write(text), (), plugins)
    (problem,) = caught.value.problems
    assert problem.place.line == line
    assert problem.message.startswith(words)


def test_files_that_cannot_be_read(write: Callable[..., str], plugins: Plugins, tmp_path: object) -> None:
    write(RECIPE, "folder/recipe.toml")
    with pytest.raises(UsageError, match=r"folder: a folder without resolved\.toml, so no run"):
        load_recipe("folder", (), plugins)
    write('extends = "folder"\n', "extending.toml")
    with pytest.raises(RecipeErrors, match="can't be read: not a plain file"):
        load_recipe("extending.toml", (), plugins)
    with open("binary.toml", "wb") as file:
        file.write(b"a = '\xff'")
    with pytest.raises(RecipeErrors, match="is not UTF-8 text"):
        load_recipe("binary.toml", (), plugins)
