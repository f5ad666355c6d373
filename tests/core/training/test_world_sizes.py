"""`vtp run --nproc`, and checkpoints that change hands between 1, 2 and 4 ranks."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.core.run.tiny_run import metrics, start, vtp
from tests.core.run.whole_run import ToyRun, halves, numbers
from tests.core.training.test_three_steps import assert_close, part
from vtp_core.run.records import RunFolder
from vtp_core.testing.ranks import run_processes
from vtp_core.training.ranks.world import World

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


def first_half(world: World, folder: Path):
    return halves(world, None, folder, range(3))


def both_halves(world: World, read: Path):
    second = halves(world, read, None, range(3, 5))
    return {f"second|{name}": value for name, value in second.items()}


def test_four_ranks_go_on_from_two(tmp_path: Path):
    run_processes(2, first_half, tmp_path)
    found = run_processes(4, both_halves, tmp_path)
    alone = ToyRun(World(), microbatch_rows=3)
    logged = {index: alone.step(index) for index in range(5)}
    expected = {k: v for k, v in numbers(logged).items() if int(k[0]) >= 3} | alone.state()
    for rank in found:
        assert_close(part(rank, "second"), expected)


@pytest.mark.parametrize("shard", [1, 2])
def test_two_processes_train_like_one(tmp_path: Path, shard):
    """Float32: rounding differs, and AdamW magnifies it where a gradient is nearly zero."""
    alone, both = tmp_path / "alone", tmp_path / "both"
    for folder in (alone, both):
        folder.mkdir()
    assert vtp(alone).exit_code == 0
    process = start(both, f"parallel.shard={shard}", options=("--nproc", "2"))
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    expected, found = metrics(alone), metrics(both)
    assert [line.keys() for line in found] == [line.keys() for line in expected]
    for left, right in zip(expected, found, strict=True):
        assert right == pytest.approx(left, rel=5e-3, abs=1e-4), left["step"]
    assert expected[0] == pytest.approx(found[0], rel=1e-5)
    assert (both / "run/tokenizer/model.safetensors").is_file() and (both / "run/report.html").is_file()


def test_rank_that_dies_ends_the_others(tmp_path: Path):
    dies = "objectives.bad={use = 'faulty.bad_number', view = 'rec', where = 'exit', at = [3]}"
    began = time.monotonic()
    process = start(tmp_path, dies, "run.checkpoint_every=2", options=("--nproc", "2"))
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 6, errors
    assert "rank 1 died (exit code 9)" in errors
    assert "Traceback" not in errors
    assert time.monotonic() - began < 120
    assert (tmp_path / "run/checkpoints/latest").read_text() == "step-00000002\n"
    # Without the fault the run goes on from there.
    again = start(
        tmp_path,
        dies.replace("[3]", "[]"),
        "run.checkpoint_every=2",
        resume=True,
        options=("--nproc", "2", "--allow-change"),
    )
    _, errors = again.communicate(timeout=200)
    assert again.returncode == 0, errors
    assert [line["step"] for line in metrics(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_exit_code_of_ranks_is_that_of_the_command(tmp_path: Path):
    bad = "objectives.bad={use = 'faulty.bad_number', view = 'rec', at = [1, 2, 3]}"
    process = start(tmp_path, bad, "run.max_skipped_steps=1", options=("--nproc", "2"))
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 4, errors
    assert "error: step 3: loss bad/square is nan" in errors


def test_signal_to_the_launcher_stops_all_ranks_in_good_order(tmp_path: Path):
    slow = 'callbacks.slow={use = "faulty.slow", seconds = 0.05}'
    process = start(tmp_path, "run.steps=5000", slow, options=("--nproc", "2"))
    deadline = time.monotonic() + 100
    while len(RunFolder(tmp_path / "run").read_metrics()) < 2 and time.monotonic() < deadline:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.terminate()
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 75, errors
    made = RunFolder(tmp_path / "run").read_metrics()[-1]["step"]
    assert (tmp_path / "run/checkpoints/latest").read_text() == f"step-{made:08d}\n"
