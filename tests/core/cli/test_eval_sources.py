"""`vtp eval`: which recipe and which images it takes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Literal

import pytest

from tests.core.cli.small_tokenizer import finished, vtp
from vtp_core.cli.arguments.held_out import read_held_out
from vtp_core.config import ComponentConfig
from vtp_core.errors import UsageError
from vtp_core.evaluation.sets.dataset import evaluation_batches
from vtp_core.plugins import Plugins, Register, hookimpl


@pytest.mark.parametrize(
    ("source", "measured"),
    [("samples", "samples/val"), ('{ use = "samples", split = "train" }', "samples/train")],
)
def test_eval_measures_the_held_out_split_unless_one_is_named(home: Path, source: str, measured: str) -> None:
    result = vtp("eval", home / "artefact", "--source", source, "--limit", 4, "--evaluator", "reconstruction")
    assert result.exit_code == 0, result.output
    assert f" {measured}, PARTIAL 4 of" in result.output, result.output


class _Split(ComponentConfig):
    use: str = "x"
    split: Literal["first", "second"] = "first"


def test_a_source_whose_held_out_split_nobody_knows_must_name_one() -> None:
    plugins = Plugins()

    class Module:
        vtp_api = 2

        @staticmethod
        @hookimpl
        def register_sources(register: Register) -> None:
            register("x", _Split, config=_Split)

    plugins.add(Module, "odd")
    with pytest.raises(UsageError, match=r'source odd\.x: .*name one \("first" or "second"\), as in'):
        read_held_out("odd.x", plugins)
    assert read_held_out('{ use = "odd.x", split = "second" }', plugins) == _Split(
        use="odd.x", split="second"
    )


@pytest.mark.parametrize("given", ["done", "done/tokenizer"])
def test_eval_of_a_run_uses_the_sources_of_its_recipe(home: Path, given: str) -> None:
    finished(home)
    result = vtp("eval", home / given, "--json")
    assert result.exit_code == 0, result.output
    measured = json.loads(result.stdout)
    assert {"psnr", "knn", "linear_probe"} <= set(measured)
    assert "photos), all 12" in measured["psnr"]["protocol"]
    chosen = vtp("eval", home / given, "--evaluator", "reconstruction", "--limit", 5)
    assert "PARTIAL 5 of 12" in chosen.stdout and "knn" not in chosen.stdout


@pytest.mark.parametrize("given", ["done", "artefact", "done/checkpoints/step-00000003"])
def test_eval_by_another_recipe(
    home: Path, other_recipe: Path, given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished(home)
    shutil.copytree(home / "run/checkpoints", home / "done/checkpoints", dirs_exist_ok=True)
    sizes = []
    read = evaluation_batches
    monkeypatch.setattr(
        "vtp_core.evaluation.sets.dataset.evaluation_batches",
        lambda source, size, rows, **keys: sizes.append(rows) or read(source, size, rows, **keys),
    )
    result = vtp("eval", home / given, "-r", other_recipe, "--json")
    assert result.exit_code == 0, result.output
    measured = json.loads(result.stdout)
    assert "knn" not in measured and measured["psnr"]["evaluator"] == "structure" and sizes == [1]
    assert "on samples/val, PARTIAL 2 of" in measured["psnr"]["protocol"]


def test_what_the_command_line_names_goes_before_the_recipe(home: Path, other_recipe: Path) -> None:
    result = vtp("eval", home / "artefact", "-r", other_recipe, "--source", home / "photos", "--limit", 3)
    assert result.exit_code == 0, result.output
    assert "photos), PARTIAL 3 of 12" in result.stdout and "knn" not in result.stdout
    assert "reconstruction-v1, PARTIAL" in result.stdout
    chosen = vtp("eval", home / "artefact", "-r", other_recipe, "--evaluator", "latent_statistics", "--json")
    assert chosen.exit_code == 0, chosen.output
    assert "effective_rank" in (measured := json.loads(chosen.stdout)) and "psnr" not in measured
    missing = vtp("eval", home / "artefact", "-r", home / "nothing.toml")
    assert missing.exit_code == 2 and "nothing.toml" in missing.stderr


def test_eval_of_a_checkpoint_uses_the_recipe_of_its_run(home: Path) -> None:
    result = vtp("eval", home / "run/checkpoints/step-00000003", "--evaluator", "reconstruction")
    assert result.exit_code == 0, result.output
    assert "photos), all 12" in result.stdout
