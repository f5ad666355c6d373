"""What every door to a checkpoint checks: ``--resume``, ``init_from`` and ``vtp export RUN``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.core.run.tiny_run import metrics, one_line, vtp
from tests.core.training import test_hostile_checkpoints as hostile
from tests.core.training.test_checkpoint import edit
from vtp_core.cli.main import main

BAD = "objectives.bad={use = 'faulty.bad_number', view = 'rec', where = 'loss', at = [2, 3, 4, 5]}"
STOP = 'callbacks.stop={use = "faulty.signal", at = 3, first = true}'


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run of one step."""
    folder = tmp_path_factory.mktemp("whole")
    assert vtp(folder, "run.steps=1").exit_code == 0
    return folder


@pytest.fixture
def first(whole: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(whole, tmp_path / "first"))


def resume(first: Path, folder: Path) -> Result:
    return vtp(first, "run.steps=1", resume=True)


def start_from(first: Path, folder: Path) -> Result:
    return vtp(folder, f'init_from="{first / "run"}"', "run.steps=1")


def export(first: Path, folder: Path) -> Result:
    return CliRunner().invoke(main, ["export", str(first / "run"), str(folder / "model"), "--no-statistics"])


DOORS = {"resume": resume, "init_from": start_from, "export": export}


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
def test_no_door_runs_code_or_reads_a_damaged_file(first: Path, tmp_path: Path, door, monkeypatch):
    path, mark = first / "run/checkpoints/step-00000001", tmp_path / "ran"
    good = {file: file.read_bytes() for file in path.iterdir()}
    damaged = bytearray(good[path / "__0_0.distcp"])
    damaged[len(damaged) // 2] ^= 1
    (path / "__0_0.distcp").write_bytes(damaged)
    result = door(first, tmp_path)
    assert result.exit_code == 5 and "__0_0.distcp is damaged" in one_line(result)
    for file, data in good.items():
        file.write_bytes(data)
    monkeypatch.setattr(hostile, "NAME", "tokenizer.bottleneck.proj.weight")
    hostile.hurt_entry(path, mark)
    result = door(first, tmp_path)
    assert result.exit_code == 5
    assert "'tokenizer.bottleneck.proj.weight' is a BytesStorageMetadata" in one_line(result)
    assert not mark.exists()


def test_a_checkpoint_of_an_earlier_version_goes_on_with_a_word(first: Path, caplog):
    """Its manifest has no hash of its own and no count of skipped steps."""
    path = first / "run/checkpoints/step-00000001/manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["sha256"], manifest["extra"]["guard"]
    path.write_text(json.dumps({**manifest, "format_version": 1}))
    with caplog.at_level("WARNING", "vtp_core"):
        result = vtp(first, "run.steps=1", resume=True)
    assert result.exit_code == 0, result.output
    (line,) = [message for message in caplog.messages if "an earlier version wrote it" in message]
    assert "has no hash of its own" in line


def test_a_restart_goes_on_counting_skipped_steps(tmp_path: Path):
    whole = tmp_path / "whole"
    whole.mkdir()
    limit = ("run.max_skipped_steps=2", BAD)
    reference = vtp(whole, *limit)
    assert reference.exit_code == 4 and one_line(reference).startswith("error: step 5: ")
    assert vtp(tmp_path, *limit, STOP).exit_code == 75  # step 3, the first that is skipped
    again = vtp(tmp_path, *limit, STOP, resume=True)
    assert again.exit_code == 4 and one_line(again).startswith("error: step 5: ")
    # Of a skipped step `lr` is that of the last one which this process made.
    steps = [[{**line, "lr": None} for line in metrics(folder)] for folder in (tmp_path, whole)]
    assert steps[0] == steps[1] and len(steps[0]) == 5


def test_a_count_of_skipped_steps_that_is_none_is_refused(first: Path):
    path = first / "run/checkpoints/step-00000001"
    hostile_extra = {**json.loads((path / "manifest.json").read_text())["extra"], "guard": [1]}
    edit(path, extra=hostile_extra)
    result = vtp(first, "run.steps=1", resume=True)
    assert result.exit_code == 5 and "no count of skipped steps, but [1]" in one_line(result)
