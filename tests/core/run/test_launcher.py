"""``vtp run --nproc`` under signals: real processes, real signals to some or all of them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.core.run.test_stopping import alive, named_checkpoint
from tests.core.run.tiny_run import metrics, start
from vtp_core.run.processes import launch
from vtp_core.training.saving.checkpoint import find_latest

pytestmark = [pytest.mark.distributed, pytest.mark.slow]
SLOW = 'callbacks.slow={use = "faulty.slow", seconds = 0.05}'
RANKS = {"options": ("--nproc", "2")}


def until_step(folder: Path, process: subprocess.Popen, step: int = 2) -> list[int]:
    """Waits until a step is logged; the processes of the ranks, by rank."""
    deadline = time.monotonic() + 120
    while len(metrics(folder)) < step:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    rank = {}
    for child in map(int, children):
        environment = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        rank |= {int(entry[5:]): child for entry in environment if entry.startswith(b"RANK=")}
    assert sorted(rank) == [0, 1]
    return [rank[0], rank[1]]


def ended(process: subprocess.Popen, pids: list[int], seconds: float = 60) -> tuple[int, str]:
    """The exit code and what was printed; all processes have ended."""
    _, errors = process.communicate(timeout=seconds)
    deadline = time.monotonic() + seconds
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < deadline, errors
        time.sleep(0.05)
    assert "Traceback" not in errors and "internal error" not in errors, errors
    return process.returncode, errors


@pytest.mark.parametrize("to", ["launcher and ranks", "ranks first", "one rank"])
def test_a_signal_to_several_processes_saves_once(tmp_path: Path, to: str):
    process = start(tmp_path, "run.steps=5000", SLOW, **RANKS)
    ranks = until_step(tmp_path, process)
    targets = {
        "launcher and ranks": [process.pid, *ranks],
        "ranks first": [*ranks, process.pid, *ranks],
        "one rank": ranks[1:],
    }
    for pid in targets[to]:
        os.kill(pid, signal.SIGTERM)
        time.sleep(0.01)
    code, errors = ended(process, ranks)
    assert code == 75, errors
    line = next(line for line in errors.splitlines() if line.startswith("error: stopped by SIGTERM"))
    assert named_checkpoint(tmp_path, line) == metrics(tmp_path)[-1]["step"]


def test_ranks_end_with_a_launcher_that_is_killed(tmp_path: Path):
    process = start(tmp_path, "run.steps=5000", SLOW, **RANKS)
    ranks = until_step(tmp_path, process)
    process.kill()
    code, errors = ended(process, ranks)
    assert code == -signal.SIGKILL and "its launcher has ended" in errors
    assert list((tmp_path / "run/checkpoints").glob("step-*[0-9]")), errors
    assert find_latest(tmp_path / "run").manifest.step == metrics(tmp_path)[-1]["step"]


def test_a_signal_at_the_start_of_the_ranks_is_no_75(tmp_path: Path):
    process = start(tmp_path, "objectives.slow={use = 'faulty.slow_start', view = 'rec'}", **RANKS)
    deadline = time.monotonic() + 120
    while not (tmp_path / "run/.lock.json").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    code, errors = ended(process, [])
    assert code == 143 and "this process saved no checkpoint" in errors, errors


def test_a_stopped_rank_is_named_and_a_signal_is_served(tmp_path: Path):
    process = start(tmp_path, "run.steps=5000", "run.stall_seconds=4", SLOW, **RANKS)
    ranks = until_step(tmp_path, process)
    os.kill(ranks[1], signal.SIGSTOP)
    time.sleep(9)
    process.send_signal(signal.SIGTERM)
    time.sleep(8)
    os.kill(ranks[1], signal.SIGCONT)  # it can't end while it is stopped
    code, errors = ended(process, ranks)
    assert code == 6, errors
    assert "no progress for" in errors and "rank 0: computing of step" in errors
    assert "no report from rank 1, which is stopped, stuck or gone" in errors
    assert "error: stopped by SIGTERM, but rank 0 made no progress for" in errors


def test_ranks_that_note_no_exit_code_have_not_saved(tmp_path: Path):
    number = signal.SIGTERM
    with pytest.raises(launch.Stopped, match="before they could save") as caught:
        launch._code_after_signal(number, 2, tmp_path)
    assert caught.value.exit_code == 143
    for codes, expected in (((75, 6), 75), ((6, None), 6), ((0, 0), 0), ((None, 143), 143), ((5, 6), 5)):
        for rank, code in enumerate(codes):
            (tmp_path / str(rank)).unlink(missing_ok=True)
            if code is not None:
                (tmp_path / str(rank)).write_text(str(code))
        assert launch._code_after_signal(number, 2, tmp_path) == expected
