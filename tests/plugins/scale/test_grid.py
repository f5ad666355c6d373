"""Grids: every problem at its line, and the runs that a grid stands for."""

from __future__ import annotations

from pathlib import Path

import pytest

from vtp_core.errors import UsageError
from vtp_core.plugins import Plugins, load_plugins
from vtp_core.recipe import load_recipe
from vtp_core.recipe.problems import RecipeErrors
from vtp_plugins.scale.config import Budgets, read_grid
from vtp_plugins.scale.runs import Run, expand

GRID = """
seeds = [0, 1]

[set]
"optimizer.lr" = 1e-3
"ema.momentum" = 0.99

[families.ae]
title = "AE"
recipe = "quickstart"

[axes]
"encoder.depth" = [2, 4]
size = { s = { "encoder.width" = 96 }, b = { encoder = { width = 192 } } }

[budgets]
steps = [100, 300]
decay = 0.2
"""

SMALL = GRID.split("[axes]")[0].replace("[0, 1]", "[0]")


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return load_plugins()


def runs(text: str, folder: Path, plugins: Plugins, *overrides: str) -> list[list[Run]]:
    file = folder / "grid.toml"
    file.write_text(text)
    return expand(*read_grid(file, plugins), plugins, overrides)


def test_a_grid_is_every_family_at_every_level_with_every_seed(tmp_path: Path, plugins: Plugins) -> None:
    chains = runs(GRID, tmp_path, plugins)
    assert [chain[0].name for chain in chains] == [
        f"ae-depth{depth}-{size}-steps300-seed{seed}" for seed in (0, 1) for depth in (2, 4) for size in "sb"
    ]
    longest, branch = chains[3]
    assert (longest.steps, longest.parent, longest.keeps) == (300, None, (80,))
    assert (branch.steps, branch.parent, branch.start) == (100, longest.name, 80)
    assert branch.levels == {"encoder.depth": "4", "size": "b"} and branch.seed == 0
    table = branch.loaded.encoder.model_dump()
    assert (table["depth"], table["width"]) == (4, 192)
    assert len({run.digest for chain in chains for run in chain}) == 16


def test_a_branch_has_the_rates_of_the_longest_run_until_its_decay(tmp_path: Path, plugins: Plugins) -> None:
    text = GRID.replace("1e-3", '{ kind = "constant", value = 1e-3, warmup = 10 }').replace("[0, 1]", "[0]")
    longest, branch = (run.loaded.optimizer.lr for run in runs(text, tmp_path, plugins)[0])
    assert not isinstance(longest, float) and not isinstance(branch, float)
    assert [longest.at(i, 300) for i in range(80)] == [branch.at(i, 100) for i in range(80)]
    assert branch.at(90, 100) == pytest.approx(5e-4) and longest.at(270, 300) == pytest.approx(5e-4)


def test_without_decay_each_budget_is_a_run_of_its_own(tmp_path: Path, plugins: Plugins) -> None:
    chains = runs(GRID.replace("decay = 0.2\n", "").replace("seeds = [0, 1]", ""), tmp_path, plugins)
    assert [[run.steps for run in chain] for chain in chains] == [[100, 300]] * 4
    assert all(run.parent is None and not run.settings for chain in chains for run in chain)


def test_a_digest_is_of_what_is_trained(tmp_path: Path, plugins: Plugins) -> None:
    first = runs(SMALL, tmp_path, plugins)[0][0].digest
    same = runs(SMALL, tmp_path, plugins, "run.log_every=7", 'run.device="cpu"')[0][0].digest
    other = runs(SMALL, tmp_path, plugins, "optimizer.weight_decay=0.3")[0][0].digest
    assert first == same != other


@pytest.mark.parametrize(
    ("steps", "decay", "starts"),
    [((320, 960, 2880), 0.25, (240, 720, 2160)), ((100, 333, 1000), 0.2, (80, 240, 800)), ((2,), 0.5, (1,))],
)
def test_decays_begin_at_steps_with_few_checkpoints(
    steps: tuple[int, ...], decay: float, starts: tuple[int, ...]
) -> None:
    assert Budgets(steps=steps, decay=decay).decay_from() == starts


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds", "sedes", r'grid.toml:2 +sedes +unknown key; did you mean "seeds"\?'),
        ("title", "titel", r'grid.toml:9 +families.ae.titel +unknown key; did you mean "title"\?'),
        ('"encoder.depth"', "encoder.depth", r"grid.toml:13 +axes.encoder +level depth .* in quotes"),
        ("[100, 300]", "[300, 100]", r"grid.toml:16 +budgets +steps must be ascending"),
        ("decay = 0.2", "decay = 1.0", r"grid.toml:18 +budgets.decay +should be less than 1"),
        (
            "encoder.width",
            "encoder.widht",
            r'grid.toml:14 +encoder.widht +unknown key; did you mean "width"\?',
        ),
        ('"ema.momentum" = 0.99', "", r"grid.toml:10 .* ema.momentum of .* depends on the run's length"),
        ('"optimizer.lr" = 1e-3', "", r'grid.toml:10 .* needs a constant optimizer.lr, .* is "cosine"'),
        ("1e-3", '{ kind = "constant", value = 1, warmup = 90 }', r"the warm-up .* takes 90 steps, .* at 80"),
        ("[2, 4]", "[2, 2]", r"grid.toml:13 +axes.\"encoder.depth\" +has a value twice"),
        ("[families.ae]", '[figure]\nx = "flosp"\n[families.ae]', r'did you mean "flops"\?'),
        ("[families.ae]", '[figure]\ncurves = ["siz"]\n[families.ae]', r'did you mean "size"\?'),
        ("[families.ae]", "[figure]\nbetween = [2.0, 1.0]\n[families.ae]", r"first must be below the second"),
    ],
)
def test_what_is_wrong_is_told_at_its_line(
    old: str, new: str, message: str, tmp_path: Path, plugins: Plugins
) -> None:
    assert old in GRID
    with pytest.raises(RecipeErrors, match=message):
        runs(GRID.replace(old, new), tmp_path, plugins)


def test_a_file_or_recipe_that_is_not_there_is_told(tmp_path: Path, plugins: Plugins) -> None:
    with pytest.raises(UsageError, match=r"none\.toml: can't be read"):
        read_grid(tmp_path / "none.toml", plugins)
    with pytest.raises(UsageError, match='"quikstart"'):
        runs(SMALL.replace("quickstart", "quikstart"), tmp_path, plugins)


def test_the_page_shows_a_grid_that_can_be_read(tmp_path: Path, plugins: Plugins) -> None:
    page = (Path(__file__).parents[3] / "docs/scaling.md").read_text()
    chains = runs(page.split("```toml\n")[1].split("```")[0].replace("[0, 1]", "[0]"), tmp_path, plugins)
    assert len({run.family for chain in chains for run in chain}) == 2
    assert load_recipe(chains[0][0].recipe, chains[0][0].overrides, plugins).run.steps == chains[0][0].steps
