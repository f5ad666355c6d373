"""N + M steps equal N, stop, M, bit for bit, however the run was stopped."""

from __future__ import annotations

import functools
import json
import signal
import time
from pathlib import Path

import pytest

from tests.core.run.tiny_run import assert_same_bits, metrics, start, state, vtp
from vtp_core.run.records import RunFolder
from vtp_core.training.saving.checkpoint import find_latest

STOP = 'callbacks.stop={use = "faulty.signal", at = 3, first = true}'
WITH = [
    # every kind of state: parameters, moments, an EMA copy; drawn numbers: crops, drop path, chunks
    "views.rec.drop_path=0.2",
    "run.microbatch_rows=3",
    "objectives.l1.weight={kind = 'linear', start = 0.5, end = 2.0}",
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory):
    """Precision -> folder of a run that was never stopped."""

    @functools.cache
    def run(precision: str) -> Path:
        folder = tmp_path_factory.mktemp(precision)
        result = vtp(folder, f"run.precision={precision}", *WITH)
        assert result.exit_code == 0, result.output
        return folder

    return run


@pytest.mark.parametrize(
    ("precision", "workers"),
    [
        ("float32", 0),
        pytest.param("float32", 2, marks=pytest.mark.slow),
        pytest.param("bfloat16", 0, marks=pytest.mark.slow),
        pytest.param("bfloat16", 2, marks=pytest.mark.slow),
    ],
)
def test_stopped_run_goes_on_bit_for_bit(whole, precision, workers, tmp_path: Path):
    reference = whole(precision)
    sets = [f"run.precision={precision}", *WITH, f"data.workers={workers}", STOP]
    first = vtp(tmp_path, *sets)
    assert first.exit_code == 75, first.output
    assert "stopped by SIGTERM after step 3: step-00000003 is saved" in first.stderr
    assert [line["step"] for line in metrics(tmp_path)] == [1, 2, 3]
    with pytest.raises(AssertionError):  # the comparison below can fail
        assert_same_bits(state(tmp_path), state(reference))

    second = vtp(tmp_path, *sets, resume=True)
    assert second.exit_code == 0, second.output
    assert_same_bits(state(tmp_path), state(reference))
    assert metrics(tmp_path) == metrics(reference)
    kinds = {name.split(".")[0] for name in state(tmp_path)}
    assert kinds == {"tokenizer", "objectives", "ema", "optimizer"}


@pytest.mark.slow
def test_killed_run_goes_on_from_its_newest_checkpoint(tmp_path: Path):
    kill = 'callbacks.stop={use = "faulty.signal", signal = "SIGKILL", at = 5, first = true}'
    process = start(tmp_path, "run.checkpoint_every=2", kill)
    assert process.wait(60) == -signal.SIGKILL
    process.stderr.close()
    assert [line["step"] for line in metrics(tmp_path)] == [1, 2, 3, 4, 5]
    # What a process leaves that was killed while it saved, and in the middle of a line.
    (tmp_path / "run/checkpoints/step-00000006.tmp").mkdir()
    with (tmp_path / "run/metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "sam')
    again = vtp(tmp_path, "run.checkpoint_every=2", kill, resume=True)
    assert again.exit_code == 0, again.output
    reference = tmp_path / "reference"
    reference.mkdir()
    assert vtp(reference).exit_code == 0
    assert_same_bits(state(tmp_path), state(reference))
    assert metrics(tmp_path) == metrics(reference)
    assert not list((tmp_path / "run/checkpoints").glob("*.tmp"))


@pytest.mark.slow
def test_checkpoint_from_before_the_optimizer_had_a_choice_goes_on(tmp_path: Path):
    """Its manifest's recipe has no key `optimizer.use`, which meant AdamW: no change of the recipe."""
    assert vtp(tmp_path, STOP).exit_code == 75
    path = find_latest(tmp_path / "run").path / "manifest.json"
    manifest = json.loads(path.read_text())
    assert manifest["recipe"]["optimizer"].pop("use") == "adamw"
    del manifest["sha256"]
    path.write_text(json.dumps({**manifest, "format_version": 1}))
    result = vtp(tmp_path, STOP, resume=True)
    assert result.exit_code == 0, result.output
    reference = tmp_path / "reference"
    reference.mkdir()
    assert vtp(reference).exit_code == 0
    assert_same_bits(state(tmp_path), state(reference))


@pytest.mark.slow
def test_sigterm_from_outside_saves_and_exits_75(tmp_path: Path):
    slow = 'callbacks.slow={use = "faulty.slow", seconds = 0.05}'
    process = start(tmp_path, "run.steps=2000", slow, "data.workers=2")
    deadline = time.monotonic() + 60
    while len(RunFolder(tmp_path / "run").read_metrics()) < 2 and time.monotonic() < deadline:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    made = RunFolder(tmp_path / "run").read_metrics()[-1]["step"]
    assert f"error: stopped by SIGTERM after step {made}: step-{made:08d} is saved" in errors
    assert (tmp_path / f"run/checkpoints/step-{made:08d}/manifest.json").is_file()
    assert (tmp_path / "run/checkpoints/latest").read_text().strip() == f"step-{made:08d}"
