"""The command on real runs: failures, branches, interruptions, report."""

from __future__ import annotations

import json
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result
from safetensors.torch import load_file

from vtp_core.cli.main import main
from vtp_core.errors import UsageError
from vtp_core.plugins import load_plugins
from vtp_core.run.records import RunFolder
from vtp_plugins.scale import runner
from vtp_plugins.scale.config import read_grid
from vtp_plugins.scale.runner import Bench, make_chains, make_run, read_record, state_of
from vtp_plugins.scale.runs import Run, expand

RECIPE = Path(__file__).parents[3] / "benchmarks/study_objectives/recipes/ae.toml"
GRID = f"""
out = "OUT"
[set]
run = {{ precision = "float32", log_every = 1 }}
views.image.rows = 8
encoder = {{ width = 24, depth = 1, heads = 2, patch = 8 }}
decoder = {{ width = 24, depth = 1, heads = 2 }}
objectives.perceptual = {{ weights = "random", rows = 4 }}
objectives.l1.rows = 4
evaluate.limit = 8
"optimizer.lr" = 1e-3
"ema.momentum" = 0.99

[families.ae]
recipe = "{RECIPE}"
"""
BROKEN = f"""
[families.broken]
title = "No data"
recipe = "{RECIPE}"
set = {{ "data.source" = {{ use = "webdataset", urls = ["/no/such-{{0..1}}.tar"] }} }}
"""


def scale(file: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["scale", str(file), "--threads", "1", *arguments])


def grid(folder: Path, text: str) -> Path:
    file = folder / "grid.toml"
    file.write_text(text.replace("OUT", str(folder / "runs")))
    return file


def test_a_run_that_fails_is_recorded_with_its_exit_code_and_the_rest_go_on(tmp_path: Path) -> None:
    file = grid(tmp_path, GRID.split("[families.ae]")[0] + BROKEN + BROKEN.replace(".broken]", ".other]"))
    done = scale(file, "--json")
    assert done.exit_code == 3, done.output
    for name in ("broken-seed0", "other-seed0"):
        record = json.loads((tmp_path / "runs" / name / "scale.json").read_text())
        assert (record["state"], record["exit_code"]) == ("failed", 3) and "no/such" in record["message"]
    report = json.loads(done.stdout)
    assert report["points"] == [] and len(report["left"]) == 2
    assert "error: 2 of 2 runs failed, the first is broken-seed0" in done.stderr
    changed = scale(grid(tmp_path, file.read_text().replace("1e-3", "2e-3")), "--no-run")
    assert changed.exit_code == 2 and "was made with other settings" in changed.output


def test_a_budget_that_is_used_up_starts_nothing(tmp_path: Path) -> None:
    done = scale(grid(tmp_path, GRID), "--budget", "0")
    assert (
        done.exit_code == 0 and "0 of 1 runs are there" in done.output and "ae-seed0: missing" in done.output
    )


@pytest.mark.slow
def test_a_dry_run_lists_costs_and_trains_nothing(tmp_path: Path) -> None:
    done = scale(grid(tmp_path, f"{GRID}\n[budgets]\nsteps = [4, 8]\ndecay = 0.5\n"), "--dry-run", "--json")
    listed = json.loads(done.stdout)
    longest, branch = listed["runs"]
    assert longest["flops"] == 2 * branch["flops"] > 0 and longest["samples"] == 2 * branch["samples"] == 32
    assert listed["flops"] == pytest.approx(longest["flops"] * 1.25)  # of the branch, half was trained
    assert longest["parameters"] == branch["parameters"] > 0 and not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_branch_is_bit_for_bit_the_run_that_was_trained_by_itself(tmp_path: Path) -> None:
    text = f"{GRID}\n[budgets]\nsteps = [4, 8]\ndecay = 0.5\n"
    made = scale(grid(tmp_path, text), "--plot", str(tmp_path / "figure.svg"))
    assert made.exit_code == 0, made.output
    assert "2 of 2 runs are there" in made.output and (tmp_path / "figure.svg").read_text().startswith("<svg")
    runs = tmp_path / "runs"
    kept = sorted(path.name for path in (runs / "ae-steps8-seed0/checkpoints").glob("step-*"))
    assert kept == ["step-00000002", "step-00000008"]
    (tmp_path / "alone").mkdir()
    assert scale(grid(tmp_path / "alone", text.replace("[4, 8]", "[4]"))).exit_code == 0
    branch, alone = RunFolder(runs / "ae-steps4-seed0"), RunFolder(tmp_path / "alone/runs/ae-steps4-seed0")
    losses = [
        [
            {key: value for key, value in row.items() if key.startswith(("loss", "lr"))}
            for row in each.read_steps()
        ]
        for each in (branch, alone)
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 4
    ours, theirs = (load_file(each.tokenizer / "model.safetensors") for each in (branch, alone))
    assert ours.keys() == theirs.keys() and all(ours[name].equal(theirs[name]) for name in ours)
    again = scale(tmp_path / "grid.toml")
    assert "starts" not in again.output and again.exit_code == 0
    shown = json.loads((runs / "scaling.json").read_text())
    assert {point["chain"] for point in shown["points"]} == {"ae-steps8-seed0"}
    assert shown["metrics"]["psnr"]["curves"][0]["fit"]["runs"] == 1


def toy_run() -> Run:
    return Run(
        name="a", family="f", levels={}, seed=0, recipe=RECIPE, overrides=(), settings=(), digest="d",
        loaded=SimpleNamespace(run=SimpleNamespace(steps=3)),  # type: ignore[arg-type]
    )  # fmt: skip


def test_a_killed_run_is_not_gone_on_with_by_another_grid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has checkpoints, and `--allow-change` of a branch would go on from them."""

    def killed(*given: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runner.subprocess, "Popen", killed)
    with pytest.raises(KeyboardInterrupt):
        make_run(toy_run(), Bench(out=tmp_path, cost=lambda _: {}), float("inf"), threading.Event())
    assert state_of(toy_run(), tmp_path / "a") == "stopped"
    with pytest.raises(UsageError, match="was made with other settings than the grid's"):
        state_of(replace(toy_run(), digest="e"), tmp_path / "a")


@pytest.mark.parametrize(("code", "state"), [(74, "failed"), (75, "stopped"), (143, "stopped"), (0, "done")])
def test_a_run_that_fails_while_it_stops_has_failed(
    code: int, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk at the last save, say: the same command would not only go on."""
    script = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(int(sys.argv[1]))); "
    script += "print('no room'); open(sys.argv[2], 'w'); time.sleep(60)"
    ready, stop = tmp_path / "ready", threading.Event()
    command = [sys.executable, "-c", script, str(code), str(ready)]
    monkeypatch.setattr(runner, "_command", lambda *_: command)

    def stop_soon() -> None:
        while not ready.exists():
            time.sleep(0.005)
        stop.set()

    watcher = threading.Thread(target=stop_soon, daemon=True)
    watcher.start()
    assert make_run(toy_run(), Bench(out=tmp_path, cost=lambda _: {}), float("inf"), stop) == (
        state == "done"
    )
    watcher.join()
    record = read_record(tmp_path / "a")
    assert (record["state"], record["exit_code"]) == (state, code)
    assert record["message"] == ("no room" if state == "failed" else "")


@pytest.mark.slow
def test_a_run_that_is_stopped_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    plugins = load_plugins()
    file = grid(tmp_path, GRID.replace("log_every = 1", "log_every = 1, steps = 60, checkpoint_every = 2"))
    chains = expand(*read_grid(file, plugins), plugins)
    run, stop, out = chains[0][0], threading.Event(), tmp_path / "runs"
    out.mkdir()
    bench = Bench(out=out, cost=lambda run: {}, threads=1)

    def stop_soon() -> None:
        while not list((out / run.name / "checkpoints").glob("step-*")):
            time.sleep(0.01)
        stop.set()

    watcher = threading.Thread(target=stop_soon, daemon=True)
    watcher.start()
    assert not make_run(run, bench, float("inf"), stop)
    watcher.join()
    assert read_record(out / run.name)["state"] == "stopped"
    assert not make_chains(chains, bench)
    record = read_record(out / run.name)
    assert record["state"] == "done" and len(record["sessions"]) == 2
    assert [row["step"] for row in RunFolder(out / run.name).read_steps()] == list(range(1, 61))
