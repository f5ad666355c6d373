"""Stop signals and stalls: the exit code says whether a checkpoint was published, and nothing hangs."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.core.run.forked import Forked
from tests.core.run.tiny_run import arguments, assert_same_bits, metrics, one_line, state, vtp
from vtp_core.errors import Stopped
from vtp_core.run.processes import watch
from vtp_core.run.processes.signals import StopSignals
from vtp_core.training.saving.checkpoint import find_latest

SLOW = 'callbacks.slow={use = "faulty.slow", seconds = 0.1}'
STOP = 'callbacks.stop={use = "faulty.signal", at = 3, first = true}'
HANG = "objectives.bad={use = 'faulty.bad_number', view = 'rec', where = 'hang', at = [3]}"


@pytest.fixture
def start() -> Iterator[Callable[..., Forked]]:
    """Starts a run in a process of its own, which ends with the test."""
    started: list[Forked] = []

    def begin(folder: Path, *sets: str, **options) -> Forked:
        started.append(Forked(arguments(folder, *sets, **options)))
        return started[-1]

    yield begin
    for process in started:
        process.kill()


def errors(process: Forked) -> list[str]:
    assert "Traceback" not in process.text, process.text
    return [line for line in process.text.splitlines() if "error" in line]


def named_checkpoint(folder: Path, line: str) -> int:
    """The step of the checkpoint that the line says is saved; it is there and whole."""
    step = int(line.partition(": step-")[2].partition(" is saved, continue with --resume")[0])
    assert find_latest(folder / "run").manifest.step == step
    return step


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(signal.SIGUSR1, marks=pytest.mark.slow),
    ],
)
def test_equal_signals_within_seconds_are_one(tmp_path: Path, start, number: signal.Signals):
    process = start(tmp_path, "run.steps=200", SLOW)
    process.until("step 2/")
    for _ in range(3):
        process.send(number)
        time.sleep(0.04)
    assert process.wait() == 75
    (line,) = errors(process)
    assert line.startswith(f"error: stopped by {number.name} after step ")
    assert named_checkpoint(tmp_path, line) == metrics(tmp_path)[-1]["step"]


def test_a_signal_that_another_rank_got_first_is_the_same_one():
    stop = StopSignals()
    stop.waits = True
    stop.note(signal.SIGTERM)
    assert not stop.is_second(signal.SIGTERM) and stop.is_second(signal.SIGINT)
    stop.since -= 6
    assert stop.is_second(signal.SIGTERM)
    assert isinstance(stop.error("now"), Stopped) and not stop.is_second(signal.SIGINT)


def test_another_signal_ends_the_run_at_once(tmp_path: Path, start):
    process = start(tmp_path, "run.steps=200", SLOW.replace("0.1", "1e6"))
    process.until("step 1/")
    process.send(signal.SIGTERM)
    time.sleep(0.1)
    process.send(signal.SIGINT)
    assert process.wait() == 128 + signal.SIGINT
    (line,) = errors(process)
    assert line == "error: ended by a second signal, SIGINT; --resume goes on at step 0"
    assert not (tmp_path / "run/checkpoints").exists()


@pytest.mark.parametrize("inside", ["python", "c"])
def test_a_signal_at_the_start_saves_nothing_and_says_so(tmp_path: Path, start, monkeypatch, inside):
    monkeypatch.setattr(watch, "_END_SECONDS", 0.3)
    process = start(
        tmp_path, f"objectives.slow={{use = 'faulty.slow_start', view = 'rec', inside = '{inside}'}}"
    )
    process.until("starting")
    process.send(signal.SIGTERM)
    assert process.wait() == 143
    (line,) = errors(process)
    assert line == (
        "error: stopped by SIGTERM while opening data and networks: this process saved no checkpoint; "
        "--resume goes on at step 0"
    )


def test_a_signal_while_a_checkpoint_is_read_is_no_damage(tmp_path: Path, monkeypatch):
    assert vtp(tmp_path, "run.steps=1").exit_code == 0

    def interrupt(*_):
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("vtp_core.training.saving.safe_reader.read_chunk", interrupt)
    result = vtp(tmp_path, "run.steps=1", resume=True)
    assert result.exit_code == 143 and "stopped by SIGTERM while opening data" in one_line(result)


def test_an_interrupt_outside_of_a_run_has_its_exit_code(tmp_path: Path, monkeypatch):
    def interrupt(*_, **__):
        signal.raise_signal(signal.SIGINT)  # to this thread; a process may have others

    monkeypatch.setattr("vtp_core.recipe.load_recipe", interrupt)
    result = vtp(tmp_path)
    assert result.exit_code == 130, result.output
    assert one_line(result) == "error: interrupted"


@pytest.mark.slow
def test_a_signal_while_a_finished_run_is_measured_again_saves_nothing(tmp_path: Path, start, monkeypatch):
    assert vtp(tmp_path, "run.steps=2").exit_code == 0

    def wait(*_, **__):
        print("measuring", flush=True)
        time.sleep(1e6)

    monkeypatch.setattr("vtp_core.run.train.finish", wait)
    process = start(tmp_path, "run.steps=2", resume=True)
    process.until("measuring")
    process.send(signal.SIGTERM)
    assert process.wait() == 143
    assert errors(process)[0].endswith("saved no checkpoint; --resume goes on from step-00000002")


@pytest.mark.slow
def test_a_signal_during_an_evaluation_saves_the_step_before(tmp_path: Path, start, monkeypatch):
    def wait(*_, **__):
        print("measuring", flush=True)
        time.sleep(1e6)

    monkeypatch.setattr("vtp_core.run.loop.evaluate_run", wait)
    process = start(tmp_path, "run.steps=6", "evaluate.every=4")
    process.until("measuring")
    process.send(signal.SIGTERM)
    assert process.wait() == 75
    assert named_checkpoint(tmp_path, errors(process)[0]) == 4
    monkeypatch.undo()
    assert vtp(tmp_path, "run.steps=6", resume=True).exit_code == 0
    (tmp_path / "whole").mkdir()
    assert vtp(tmp_path / "whole", "run.steps=6").exit_code == 0
    assert_same_bits(state(tmp_path), state(tmp_path / "whole"))


def test_a_full_disk_at_the_stop_is_no_75(tmp_path: Path, monkeypatch):
    assert vtp(tmp_path, "run.checkpoint_every=2", STOP.replace("3", "2")).exit_code == 75
    free = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("vtp_core.training.saving.checkpoint.shutil.disk_usage", lambda _: free)
    stop = STOP.replace("first = true", "first = false").replace("3", "4")
    result = vtp(tmp_path, "run.checkpoint_every=100", stop, resume=True)
    assert result.exit_code == 5 and "step-00000004: needs" in one_line(result)
    assert find_latest(tmp_path / "run").manifest.step == 2


def test_weights_that_are_not_finite_at_the_stop_are_no_75(tmp_path: Path):
    result = vtp(tmp_path, "optimizer.lr=1e38", STOP.replace("3", "1"), "run.max_skipped_steps=9")
    assert result.exit_code == 4
    assert "can be inspected but not resumed from" in one_line(result)


def test_a_stopped_worker_is_named_and_a_signal_is_served(tmp_path: Path, start):
    process = start(tmp_path, "run.steps=200", "data.workers=1", "run.stall_seconds=1", SLOW)
    process.until("step 2/")
    (worker,) = process.children()
    os.kill(worker, signal.SIGSTOP)
    process.until("s: rank 0: loading data of step ")
    assert "(newest samples: " in process.text.rpartition("loading data of step ")[2]
    process.send(signal.SIGTERM)
    assert process.wait() == 75
    (error,) = errors(process)
    assert named_checkpoint(tmp_path, error) == metrics(tmp_path)[-1]["step"]
    assert not Path(f"/proc/{worker}").exists()


def test_a_step_that_hangs_is_named_and_a_signal_is_served(tmp_path: Path, start):
    process = start(tmp_path, "run.checkpoint_every=2", "run.stall_seconds=0.5", HANG)
    process.until("s: rank 0: computing of step 4")
    process.send(signal.SIGTERM)
    assert process.wait() == 6
    (line,) = errors(process)
    assert line.startswith("error: stopped by SIGTERM, but rank 0 made no progress for ")
    assert "while computing of step 4" in line and line.endswith("--resume goes on from step-00000002")


@pytest.mark.parametrize("attempt", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 5))])
def test_a_killed_worker_is_one_clear_line(tmp_path: Path, start, attempt: int):
    process = start(tmp_path, "run.steps=4000", "data.workers=2", "run.checkpoint_every=3")
    process.until(f"step {2 + attempt}/")
    os.kill(process.children()[0], signal.SIGKILL)
    assert process.wait() == 3, process.text
    (line,) = errors(process)
    assert line.startswith("error: DataLoader worker (pid") and "data.workers" in line


@pytest.mark.slow
def test_workers_end_with_a_run_that_is_killed(tmp_path: Path, start):
    process = start(tmp_path, "run.steps=4000", "data.workers=2", SLOW)
    process.until("step 2/")
    workers = process.children()
    assert len(workers) == 2
    process.send(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    deadline = time.monotonic() + 30
    while any(alive(worker) for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert json.loads((tmp_path / "run/.lock.json").read_text())["pid"] == process.pid
    assert vtp(tmp_path, "run.steps=1", resume=True).exit_code == 0


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False
