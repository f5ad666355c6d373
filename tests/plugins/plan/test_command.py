"""``vtp plan``: text, JSON and errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.plugins.plan.recipes import TEXT
from vtp_core.cli.main import main


@pytest.fixture
def path(tmp_path: Path) -> str:
    file = tmp_path / "small.toml"
    file.write_text(TEXT)
    return str(file)


def vtp(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def test_text(path: str) -> None:
    done = vtp("plan", path, "--world-size", "4", "-s", "freeze=['encoder']")
    assert done.exit_code == 0, done.output
    lines = [line.split() for line in done.output.splitlines()]
    assert ["image", "24", "6", "l1", "6"] in lines
    assert any(line == ["encoder", "71,152", "0", "71,152"] for line in lines), done.output
    for heading in ("Group 1: l1", "Parameters", "Optimiser", "flops_table1", "Memory per rank"):
        assert heading in done.output


def test_what_fits(path: str) -> None:
    done = vtp("plan", path, "--memory", "200")
    assert done.exit_code == 0, done.output
    table = done.output.partition("What fits")[2].partition("\n\n")[0].splitlines()[2:]
    assert [line.split()[0] for line in table] == ["unset", "16", "8", "4", "2", "1"]
    assert "all rows at once fit 200 GiB" in done.output
    assert vtp("plan", path, "--memory", "0").exit_code == 2


def test_json(path: str) -> None:
    done = vtp("plan", path, "--json")
    assert done.exit_code == 0, done.output
    plan = json.loads(done.stdout)
    assert [work["verb"] for work in plan["forwards"]] == ["encode", "tokenize", "reconstruct", "loss"]
    assert plan["flops"] == sum(work["flops"] for work in plan["forwards"]) > plan["flops_table1"] > 0
    memory = dict(plan["memory"])
    assert memory.pop("total") == sum(memory.values())


def test_rows_that_do_not_fit_the_ranks_are_a_recipe_error(path: str) -> None:
    done = vtp("plan", path, "--world-size", "7")
    assert done.exit_code == 2
    assert "views.image.rows" in done.output
