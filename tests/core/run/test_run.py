"""`vtp run` and what goes wrong: one line, the exit code, and nothing lost that was written before."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from PIL import Image

from tests.core.run.tiny_run import (
    RECIPE,
    assert_same_bits,
    last_checkpoint,
    metrics,
    one_line,
    state,
    vtp,
)
from vtp_core.errors import UsageError
from vtp_core.run.processes.lock import locked
from vtp_core.run.records import RunFolder

FOLDER_RECIPE = (
    RECIPE.replace(
        'use = "samples"\nsplit = "val"', 'use = "image_folder"\npath = "@"\ncaption = "a drawing"'
    )
    .replace('[objectives.clip]\nuse = "clip"\nview = "image"\nwidth = 16\ndepth = 1\nheads = 2\n', "")
    .replace("context = 16\n", "")
    .replace('[views.image]\nrows = 8\nsize = 16\naugment = "clip"\n', "")
)


def snapshot(folder: Path) -> dict[str, bytes]:
    """All files of a run but its lock."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and ".lock" not in path.name]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run that is done, with checkpoints at steps 2, 4 and 6."""
    folder = tmp_path_factory.mktemp("finished")
    result = vtp(folder, "run.checkpoint_every=2")
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of 24 images."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(24):
        Image.new("RGB", (20, 20), (number * 10, 90, 30)).save(folder / f"{number:02d}.png")
    return folder


def truncate(images: Path, count: int) -> None:
    for path in sorted(images.iterdir())[:count]:
        path.write_bytes(path.read_bytes()[:60])


def test_run_writes_everything(finished: Path):
    written = {path.name for path in (finished / "run").iterdir()}
    assert written >= {
        "resolved.toml", "environment.json", "metrics.jsonl", "checkpoints", "tokenizer", "report.html"
    }  # fmt: skip
    lines = metrics(finished)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert [line["samples"] for line in lines] == [8, 16, 24, 32, 40, 48]
    assert (finished / "run/checkpoints/latest").read_text() == "step-00000006\n"


def test_missing_data(tmp_path: Path):
    recipe = FOLDER_RECIPE.replace("@", str(tmp_path / "nowhere"))
    result = vtp(tmp_path, recipe=recipe)
    assert result.exit_code == 3
    assert one_line(result) == f"error: {tmp_path / 'nowhere'}: no such folder; check the path of the source"
    assert not (tmp_path / "run/metrics.jsonl").exists()


def test_empty_source(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    result = vtp(tmp_path, recipe=FOLDER_RECIPE.replace("@", str(tmp_path / "empty")))
    assert result.exit_code == 3
    assert one_line(result).startswith(f"error: {tmp_path / 'empty'}: no file ends in jpg")


def test_damaged_images_above_the_limit_stop_the_run(tmp_path: Path, images: Path):
    truncate(images, 12)
    result = vtp(tmp_path, "run.steps=60", recipe=FOLDER_RECIPE.replace("@", str(images)))
    assert result.exit_code == 3
    message = one_line(result)
    assert "samples are bad" in message and "data.max_bad_fraction = 0.01" in message
    assert metrics(tmp_path)  # what was logged before it stays
    listed = [json.loads(line) for line in (tmp_path / "run/quarantine-0.jsonl").read_text().splitlines()]
    assert {entry["key"] for entry in listed} <= {f"{number:02d}.png" for number in range(12)}


def test_damaged_images_below_the_limit_are_counted_and_replaced(tmp_path: Path, images: Path):
    truncate(images, 1)
    result = vtp(
        tmp_path, "run.steps=12", "data.max_bad_fraction=0.2", recipe=FOLDER_RECIPE.replace("@", str(images))
    )
    assert result.exit_code == 0, result.output
    assert len(metrics(tmp_path)) == 12
    (entry,) = [json.loads(line) for line in (tmp_path / "run/quarantine-0.jsonl").read_text().splitlines()]
    assert entry["key"] == "00.png"
    # Statistics leave it out and say so: of samples 0, 6, 12 and 18, three could be read.
    config = json.loads((tmp_path / "run/tokenizer/config.json").read_text())
    assert "3 of 24" in config["latents_stats_protocol"]


def test_a_restart_does_not_begin_to_count_bad_samples_again(tmp_path: Path, images: Path) -> None:
    truncate(images, 4)
    recipe = FOLDER_RECIPE.replace("@", str(images))
    messages = []
    for name in ("whole", "restarted"):
        folder = tmp_path / name
        folder.mkdir()
        stop = ('callbacks.stop={use="faulty.signal", at=5, first=true}',) if name == "restarted" else ()
        result = vtp(folder, "run.steps=60", *stop, recipe=recipe)
        if stop:
            assert result.exit_code == 75
            result = vtp(folder, "run.steps=60", *stop, recipe=recipe, resume=True)
        assert result.exit_code == 3 and len(metrics(folder)) > 6
        messages.append(one_line(result).replace(str(folder), "FOLDER"))
    assert messages[0] == messages[1] and "samples are bad (truncated image: " in messages[0]


BAD = "objectives.bad={{use = 'faulty.bad_number', view = 'rec', where = '{}', at = {}}}"


@pytest.mark.parametrize(
    ("where", "reason"),
    [("loss", "loss bad/square is nan"), ("gradient", "gradient of")],
)
def test_numbers_that_stay_non_finite_stop_the_run(tmp_path: Path, where, reason):
    sets = ("run.checkpoint_every=2", "run.max_skipped_steps=1", BAD.format(where, [2, 3, 4, 5]))
    result = vtp(tmp_path, *sets)
    assert result.exit_code == 4
    message = one_line(result)
    assert message.startswith(f"error: step 4: {reason}")
    assert "2 steps in a row were skipped" in message
    assert "Last good checkpoint: step-00000002" in message
    assert last_checkpoint(tmp_path)["step"] == 2
    assert metrics(tmp_path)[2]["skipped"] == 1


def test_skipped_step_is_reported_and_the_run_goes_on(tmp_path: Path):
    result = vtp(tmp_path, BAD.format("loss", [2]))
    assert result.exit_code == 0, result.output
    assert "step 3 skipped: loss bad/square is nan" in result.stderr
    lines = metrics(tmp_path)
    assert [line.get("skipped") for line in lines] == [None, None, 1.0, None, None, None]
    assert lines[2]["loss/bad/square"] is None  # NaN is no JSON


@pytest.mark.parametrize("name", ["samples/mine.png", "tokenizer/a.txt", "report.html", "environment.json"])
def test_a_folder_with_files_that_a_run_would_replace_is_refused(tmp_path: Path, name: str):
    mine = tmp_path / "run" / name
    mine.parent.mkdir(parents=True, exist_ok=True)
    mine.write_bytes(b"mine")
    with pytest.raises(UsageError, match=f"no run folder and holds {name.split('/')[0]}, which a run would"):
        RunFolder(tmp_path / "run").require_new()
    RunFolder(tmp_path).require_new()  # files of other names, such as a log, disturb no run
    (tmp_path / "run/resolved.toml").touch()  # a start that ended before its first checkpoint
    RunFolder(tmp_path / "run").require_new()


def test_full_folder(finished: Path):
    before = snapshot(finished / "run")
    result = vtp(finished, "run.checkpoint_every=2")
    assert result.exit_code == 2
    assert one_line(result).startswith(
        f"error: {finished / 'run'}: already holds a run; continue it with --resume"
    )
    assert snapshot(finished / "run") == before


def test_folder_of_another_recipe(finished: Path):
    before = snapshot(finished / "run")
    result = vtp(finished, "run.checkpoint_every=2", "encoder.width=48", resume=True)
    assert result.exit_code == 5
    message = one_line(result)
    assert "encoder.width: 32 -> 48" in message and "--allow-change" in message
    assert snapshot(finished / "run") == before


def test_folder_in_use(finished: Path):
    before = snapshot(finished / "run")
    with locked(RunFolder(finished / "run")):
        result = vtp(finished, "run.checkpoint_every=2", resume=True)
    assert result.exit_code == 2
    assert "another run holds this folder (process " in one_line(result)
    assert snapshot(finished / "run") == before


def test_damaged_newest_checkpoint(finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "run").mkdir()
    assert vtp(tmp_path, "run.checkpoint_every=2").exit_code == 0
    data = next((tmp_path / "run/checkpoints/step-00000006").glob("*.distcp"))
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(bytes(content))
    with caplog.at_level(logging.WARNING, "vtp_core"):
        result = vtp(tmp_path, "run.checkpoint_every=2", resume=True)
    assert result.exit_code == 0, result.output
    assert any("using step-00000004 instead" in message for message in caplog.messages)
    assert_same_bits(state(tmp_path), state(finished))
    assert metrics(tmp_path) == metrics(finished)


def test_all_checkpoints_damaged(tmp_path: Path):
    assert vtp(tmp_path, "run.steps=1").exit_code == 0
    (tmp_path / "run/checkpoints/step-00000001/manifest.json").write_text("{")
    before = snapshot(tmp_path / "run")
    result = vtp(tmp_path, "run.steps=1", resume=True)
    assert result.exit_code == 5
    message = one_line(result)
    assert "no usable checkpoint: " in message and "manifest.json" in message
    assert f"move {tmp_path / 'run/checkpoints'} away and use --resume again" in message
    assert snapshot(tmp_path / "run") == before
    (tmp_path / "run/checkpoints").rename(tmp_path / "away")  # what the message says works
    assert vtp(tmp_path, "run.steps=1", resume=True).exit_code == 0
    assert [line["step"] for line in metrics(tmp_path)] == [1]


class Killed(GeneratorExit):
    """Nothing handles it: what a kill leaves is left."""


@pytest.mark.parametrize("resume", [True, False])
def test_killed_in_the_first_save(finished: Path, tmp_path: Path, monkeypatch, caplog, resume):
    def kill(*_, **__):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("vtp_core.training.saving.checkpoint.rename_folder", kill)
        vtp(tmp_path, "run.checkpoint_every=2")
    (left,) = (tmp_path / "run/checkpoints").iterdir()
    assert left.name == "step-00000002.tmp"
    result = vtp(tmp_path, "run.checkpoint_every=2", resume=resume)
    if not resume:  # it holds logged steps; what the message says works
        assert result.exit_code == 2 and "continue it with --resume" in one_line(result)
        result = vtp(tmp_path, "run.checkpoint_every=2", resume=True)
    assert result.exit_code == 0, result.output
    assert any("the run starts at step 0" in message for message in caplog.messages)
    assert_same_bits(state(tmp_path), state(finished))
    assert metrics(tmp_path) == metrics(finished)


def test_a_save_that_was_killed_before_anything_was_logged_leaves_a_new_folder(tmp_path: Path):
    (tmp_path / "run/checkpoints/step-00000002.tmp").mkdir(parents=True)
    assert vtp(tmp_path, "run.steps=1").exit_code == 0


def test_damaged_files_of_an_earlier_start_lose_no_line(finished: Path, tmp_path: Path, caplog):
    stop = 'callbacks.stop={use = "faulty.signal", at = 5, first = true}'
    assert vtp(tmp_path, "run.checkpoint_every=2", stop).exit_code == 75
    for name, place in (("metrics.jsonl", 3), ("environment.json", 0)):
        data = bytearray((tmp_path / "run" / name).read_bytes())
        data[place] ^= 1
        (tmp_path / "run" / name).write_bytes(data)
    result = vtp(tmp_path, "run.checkpoint_every=2", stop, resume=True)
    assert result.exit_code == 0, result.output
    assert metrics(tmp_path) == metrics(finished)[1:]
    assert any("metrics.jsonl: 1 damaged lines stay" in message for message in caplog.messages)
    assert "metrics.jsonl: 1 lines can&#39;t be read" in (tmp_path / "run/report.html").read_text()


def test_resume_without_a_checkpoint_starts_at_step_0(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING, "vtp_core"):
        result = vtp(tmp_path, "run.steps=2", resume=True)
    assert result.exit_code == 0, result.output
    assert [line["step"] for line in metrics(tmp_path)] == [1, 2]
    assert any("no checkpoint" in message and "step 0" in message for message in caplog.messages)


def test_resume_of_a_finished_run_measures_again(tmp_path: Path):
    assert vtp(tmp_path, "run.steps=2").exit_code == 0
    kept = metrics(tmp_path), state(tmp_path)
    (tmp_path / "run/report.html").unlink()
    assert vtp(tmp_path, "run.steps=2", resume=True).exit_code == 0
    assert (tmp_path / "run/report.html").is_file()
    assert metrics(tmp_path) == kept[0]
    assert_same_bits(state(tmp_path), kept[1])
