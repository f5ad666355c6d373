from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from benchmarks.study import runner
from benchmarks.study.arm import Arm, Run
from benchmarks.study.runner import Bench, make_run, make_runs
from benchmarks.study_objectives.__main__ import main
from benchmarks.study_objectives.arms import make_arms
from benchmarks.study_objectives.verdict import ENTROPY, FEATURES, LATENTS, PSNR, ZERO_SHOT
from vtp_core.run.records import RunFolder


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    (tmp_path / "results").mkdir()
    return Bench(
        study="study", data="samples", overrides=(), work=tmp_path / "work",
        results=tmp_path / "results",
    )  # fmt: skip


def test_a_run_that_fails_says_why(bench: Bench, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[encoder]\nuse = "no_such"\n')
    with pytest.raises(click.ClickException, match=r"a_seed0 failed with exit code 2: .*nothing was started"):
        make_runs([Run(Arm(name="a", about="", recipe=recipe), 0)], bench)


def test_no_run_starts_once_the_budget_is_used_up(bench: Bench) -> None:
    runs = [Run(arm, 0) for arm in make_arms(tiny=True)]
    assert make_runs(runs, bench, budget=0.0) == runs
    assert not list(bench.work.iterdir())


def test_tiny_runs_need_a_folder_of_their_own() -> None:
    result = CliRunner().invoke(main, ["--tiny", "run"])
    assert result.exit_code == 2 and "--tiny needs --results" in result.output


def test_a_first_stage_of_other_settings_is_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[str] = []

    def train(recipe: Path, overrides: object, folder: Path, *more: object) -> bool:
        trained.append(folder.name)
        folder.mkdir(exist_ok=True)
        (folder / "report.html").touch()
        return "first" in folder.name  # the second stage is stopped

    monkeypatch.setattr(runner, "_train", train)
    bench.work.mkdir()
    recipe = make_arms(tiny=True)[0].recipe
    arm = Arm(name="a", about="", recipe=recipe, first=recipe, first_overrides=("run.steps=7",))
    for _ in range(2):
        make_run(Run(arm, 0), bench, float("inf"), threading.Event())
    assert trained == ["a_seed0_first", "a_seed0", "a_seed0"]
    changed = Run(replace(arm, first_overrides=("run.steps=8",)), 0)
    with pytest.raises(click.ClickException, match="a_seed0_first: of other settings than the study's"):
        make_run(changed, bench, float("inf"), threading.Event())


@pytest.mark.slow
def test_a_run_that_is_stopped_goes_on_from_its_checkpoint(bench: Bench) -> None:
    arm = make_arms(tiny=True)[0]
    longer = Arm(
        name=arm.name, about="", recipe=arm.recipe, overrides=(*arm.overrides, "run.steps=60"), seeds=(1,)
    )
    run, stop = Run(longer, 1), threading.Event()
    bench.work.mkdir()

    def stop_soon() -> None:
        while not list((bench.work / run.name / "checkpoints").glob("step-*")):
            time.sleep(0.01)
        stop.set()

    watcher = threading.Thread(target=stop_soon, daemon=True)
    watcher.start()
    make_run(run, bench, float("inf"), stop)
    watcher.join()
    assert not bench.result(run).exists()
    assert make_runs([run], bench) == []
    record = json.loads(bench.result(run).read_text())
    assert record["sessions"] == 2 and record["steps"] == 60
    assert [line["step"] for line in RunFolder(bench.work / run.name).read_steps()] == list(range(1, 61))
    assert not (bench.work / run.name / "checkpoints").exists()  # of seed 0 only
    assert (bench.work / run.name / "tokenizer").is_dir()


@pytest.mark.slow
def test_the_whole_study_in_small(tmp_path: Path) -> None:
    results = tmp_path / "results"
    arguments = ["--tiny", "--results", str(results)]
    chosen = ["--only", "ae_d4,through_bottleneck", "--seeds", "0", "--work", str(tmp_path / "work")]
    runner = CliRunner()
    made = runner.invoke(main, [*arguments, "run", *chosen])
    assert made.exit_code == 0, made.output
    assert sorted(path.name for path in results.iterdir()) == [
        "ae_d4_seed0.json", "through_bottleneck_seed0.json"
    ]  # fmt: skip
    plain, whole = (json.loads(path.read_text()) for path in sorted(results.iterdir()))
    assert "latent_map" in whole["metrics"][LATENTS]["protocol"]
    assert "patches" in whole["metrics"][FEATURES]["protocol"]
    assert {PSNR, ZERO_SHOT} <= whole["metrics"].keys() and ZERO_SHOT not in plain["metrics"]
    assert 0 <= whole["training"][ENTROPY] <= 2.78  # ln 16
    assert ENTROPY not in plain["training"]
    assert whole["flops"] == 4 * whole["flops_per_step"] > plain["flops"] > 0
    assert list((tmp_path / "work" / "ae_d4_seed0" / "checkpoints").glob("step-*"))
    again = runner.invoke(main, [*arguments, "run", *chosen])
    assert again.output == "all chosen runs are there\n"
    assert "2 of 20 runs are there" in runner.invoke(main, [*arguments, "table"]).output
    assert "too few to judge" in runner.invoke(main, [*arguments, "verdict"]).output
