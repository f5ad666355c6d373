"""Mistakes across tables: each gives one error, and what only follows from another mistake gives none."""

from collections.abc import Callable

import pytest

from tests.core.recipe.conftest import RECIPE
from vtp_core.plugins import Plugins
from vtp_core.recipe import Recipe, RecipeErrors, load_recipe
from vtp_core.recipe.problems import Problem

Load = Callable[..., Recipe]


def problems(load: Load, *arguments: object, **keywords: object) -> tuple[Problem, ...]:
    with pytest.raises(RecipeErrors) as caught:
        load(*arguments, **keywords)
    return caught.value.problems


PAIR = 'use = "pair"'
ACROSS = {
    "rows and ranks": (
        "rows = 16",
        "rows = 18",
        4,
        10,
        "views.image.rows",
        "18 is not divisible by world size 4; the",
    ),
    "sub-batch and ranks": (
        PAIR,
        f"{PAIR}\nrows = 6",
        4,
        26,
        "objectives.pair.rows",
        "the nearest are 4 and 8",
    ),
    "few rows and ranks": ("rows = 16", "rows = 3", 4, 10, "views.image.rows", "the least is 4"),
    "planned ranks": (
        "[run]",
        "parallel = { world_size = 5 }\n[run]",
        None,
        11,
        "views.image.rows",
        "not divisible by world size 5",
    ),
    "shards": (
        "[run]",
        "parallel = { shard = 3 }\n[run]",
        4,
        3,
        "parallel.shard",
        "3 does not divide world size 4",
    ),
    "sub-batch too large": (
        PAIR,
        f"{PAIR}\nrows = 17",
        None,
        26,
        "objectives.pair.rows",
        "which has 16",
    ),
    "view that is not there": (
        PAIR,
        f'{PAIR}\nview = "imgae"',
        None,
        26,
        "objectives.pair.view",
        'mean "image"?',
    ),
    "crops that are not there": (
        PAIR,
        f'{PAIR}\ncrops = ["small"]',
        None,
        24,
        "objectives.pair",
        "there are: global",
    ),
    "masks that are not there": (
        PAIR,
        f"{PAIR}\nmasked = true",
        None,
        24,
        "objectives.pair",
        "add masks = {}",
    ),
    "keys that exclude each other": (
        PAIR,
        f"{PAIR}\ntext = true\nmargin = 0.25",
        None,
        27,
        "objectives.pair.margin",
        "can't be 0.25 with text",
    ),
    "keys of an evaluator that exclude each other": (
        PAIR,
        f'{PAIR}\n[evaluators.s]\nuse = "score"\nprotocol = "p"\nnetwork = "n"',
        None,
        29,
        "evaluators.s.network",
        "the protocol has none",
    ),
    "block that is not there": (
        PAIR,
        f"{PAIR}\ntaps = [3, 4]",
        None,
        24,
        "objectives.pair",
        "blocks are 0 to 3",
    ),
    "captions that are not there": (
        ", captions = true }",
        ' }\n[objectives.extra]\nuse = "pair"\ntext = true',
        None,
        8,
        "objectives.extra",
        "a text",
    ),
    "size and patch": (
        "size = 32",
        "size = 30",
        None,
        11,
        "views.image.size",
        "not a multiple of the encoder's patch 8",
    ),
    "crop size and patch": (
        "size = 32",
        "size = 32\ncrops.local = { size = 12 }",
        None,
        12,
        "views.image.crops.local.size",
        "patch 8",
    ),
    "source that is not there": (
        "size = 32",
        'size = 32\nsource = "other"',
        None,
        12,
        "views.image.source",
        "no [data.sources.other]",
    ),
    "source for nothing": (
        "[data]",
        '[data.sources.more]\nuse = "drawn"\n[data]',
        None,
        6,
        "data.sources.more",
        "no view uses this source",
    ),
    "view for nothing": (
        "[encoder]",
        '[views.rec]\nrows = 4\nsize = 32\naugment = "crop"\n[encoder]',
        None,
        14,
        "views.rec",
        "no objective",
    ),
    "nothing to train": (
        '[objectives.pair]\nuse = "pair"',
        "",
        None,
        1,
        "objectives",
        "add a table [objectives.NAME]",
    ),
    "nothing left to train": (
        "[run]",
        'freeze = ["encoder", "bottleneck", "decoder", "pair"]\n[run]',
        None,
        3,
        "freeze",
        "everything is frozen",
    ),
    "frozen name": (
        "[run]",
        'freeze = ["encoder",\n"dekoder"]\n[run]',
        None,
        4,
        "freeze[1]",
        'did you mean "decoder"?',
    ),
    "owner": (
        "lr = 1e-3",
        "lr = 1e-3\nowners.pair = {}",
        None,
        29,
        "optimizer.owners.pair",
        "[objectives.pair.optimizer]",
    ),
    "twin": (
        "[run]",
        'ema.networks = ["tokenizer.dekoder"]\n[run]',
        None,
        3,
        "ema.networks[0]",
        '"tokenizer.decoder"?',
    ),
    "momentum of a twin": (
        "[run]",
        "ema.momenta.head = 0.9\n[run]",
        None,
        3,
        "ema.momenta.head",
        "no network",
    ),
    "name of the tokenizer's": (
        "[objectives.pair]",
        "[objectives.encoder]",
        None,
        24,
        "objectives.encoder",
        "choose another",
    ),
    "stop before start": (
        PAIR,
        f"{PAIR}\nstart = 5\nstop = 5",
        None,
        27,
        "objectives.pair.stop",
        "after start = 5",
    ),
    "head of an objective that is not there": (
        PAIR,
        f'{PAIR}\nhead_of = "othr"\n[objectives.other]\nuse = "pair"',
        None,
        26,
        "objectives.pair.head_of",
        'did you mean "other"?',
    ),
    "head of its own": (
        PAIR,
        f'{PAIR}\nhead_of = "pair"',
        None,
        26,
        "objectives.pair.head_of",
        "names itself",
    ),
}


@pytest.mark.parametrize("case", ACROSS)
def test_one_mistake_across_tables_is_one_error(load: Load, case: str) -> None:
    old, new, world_size, line, key, words = ACROSS[case]
    (problem,) = problems(load, {old: new}, world_size=world_size)
    assert (problem.place.line, problem.key) == (line, key)
    assert words in problem.message


def test_right_across_tables(load: Load) -> None:
    recipe = load(
        {
            PAIR: f'{PAIR}\nrows = 8\nmasked = true\ncrops = ["global", "local"]\ntaps = [0, 3]\ntext = true'
            '\nhead_of = "other"\n[objectives.other]\nuse = "pair"',
            "size = 32": "size = 32\nmasks = {}\ncrops.local = { count = 3, size = 16, scale = [0.1, 0.4] }",
            "[run]": 'freeze = ["encoder"]\nema.networks = ["tokenizer.decoder", "objectives.pair.head"]\n'
            "[run]",
        },
        world_size=8,
    )
    assert recipe.views["image"].crops["local"].count == 3
    assert recipe.views["image"].crops["global"].count == 1
    assert recipe.views["image"].crop_size("global") == 32


def test_all_errors_come_at_once_and_cross_checks_run_on_what_is_right(load: Load) -> None:
    found = problems(
        load,
        {
            "steps = 20": 'steps = "20"\nstpes = 1',
            'use = "pair"': 'use = "pair"\nrows = 64\nmargn = 1\n[objectives.far]\nuse = "foo.bar"',
        },
    )
    assert [(problem.place.line, problem.key) for problem in found] == [
        (4, "run.steps"),
        (5, "run.stpes"),
        (27, "objectives.pair.rows"),
        (28, "objectives.pair.margn"),
        (30, "objectives.far.use"),
    ]


DOUBTFUL = {
    "a view's rows are wrong": (
        {"rows = 16": 'rows = "16"', PAIR: f"{PAIR}\nrows = 64"},
        ["views.image.rows"],
    ),
    "an objective's view is misspelt": (
        {PAIR: f'{PAIR}\nveiw = "rec"', "[views.image]": "[views.rec]"},
        ["objectives.pair.veiw"],
    ),
    "an objective is unknown": ({PAIR: 'use = "peer"'}, ["objectives.pair.use"]),
    "the patch is wrong": ({'use = "grid"': 'use = "grid"\npatch = "7"'}, ["encoder.patch"]),
    "the views are wrong": ({"[views.image]": "[vews.image]"}, ["vews"]),
}


@pytest.mark.parametrize("case", DOUBTFUL)
def test_what_follows_from_a_mistake_is_not_reported(load: Load, case: str) -> None:
    changes, keys = DOUBTFUL[case]
    assert [problem.key for problem in problems(load, changes)] == keys


def test_files_that_runs_wrote_are_not_asked_for_conflicts(
    plugins: Plugins, write: Callable[..., str]
) -> None:
    evaluator = '[evaluators.s]\nuse = "score"\nprotocol = "p"\nnetwork = "n"'
    text = RECIPE.replace(PAIR, f"{PAIR}\ntext = true\nmargin = 0.25\n{evaluator}")
    assert len(problems(load_recipe, write(text), (), plugins)) == 2
    recipe = load_recipe(write(text, "resolved.toml"), (), plugins)
    assert recipe.evaluators["s"].model_dump()["network"] == "n"
    (problem,) = problems(load_recipe, "resolved.toml", ['evaluators.s.network="m"'], plugins)
    assert problem.key == "evaluators.s.network"
