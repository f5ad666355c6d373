"""The end of a run: it shows what takes long, can be interrupted, and measures training images if need be."""

import errno
import json
import shutil
import signal
from pathlib import Path

import pytest

from tests.core.run.tiny_run import one_line, vtp
from vtp_core.errors import NumericError
from vtp_core.evaluation.sets import cutting
from vtp_core.run.metrics import MetricsLog
from vtp_core.run.records import RunFolder

MEASURED = (
    'evaluate.source={ use = "samples", split = "val" }',
    "evaluators.reconstruction.use=reconstruction",
)


def test_each_part_of_the_end_names_itself(tmp_path: Path) -> None:
    done = vtp(tmp_path, "run.steps=2", "evaluate.every=1", *MEASURED)
    assert done.exit_code == 0, done.output
    during, _, end = done.stderr.partition("step 2/2")
    assert "evaluation: samples/val" in during and "computing reconstruction" in during
    names = (
        "writing ",
        "evaluation: samples/val",
        "computing reconstruction",
        "latent statistics: samples/val",
    )
    places = [end.find(name) for name in (*names, "reconstructions: samples/val")]
    assert min(places) >= 0 and places == sorted(places), end
    assert "latent statistics: samples/val: 4 images" in end


def test_without_held_out_data_training_images_are_reconstructed(tmp_path: Path) -> None:
    done = vtp(tmp_path, "run.steps=1")
    assert done.exit_code == 0, done.output
    gallery = json.loads((tmp_path / "run" / "samples" / "samples.json").read_text())
    assert gallery["trained_on"] and len(gallery["psnr"]["values"]) == 4
    line = f"reconstructions  median PSNR {gallery['psnr']['median']:.2f} dB, training images"
    assert line in done.stdout
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Reconstructions of training images" in page and "held-out images" not in page


def test_an_interrupt_during_evaluation_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crop = cutting.center_crop

    def interrupt(*arguments):
        signal.raise_signal(signal.SIGINT)
        return crop(*arguments)

    monkeypatch.setattr(cutting, "center_crop", interrupt)
    stopped = vtp(tmp_path, "run.steps=2", *MEASURED)
    assert stopped.exit_code == 75
    last = stopped.stderr.splitlines()[-1]
    assert "stopped by SIGINT while making tokenizer, evaluation and report: step-00000002 is saved" in last
    monkeypatch.undo()
    again = vtp(tmp_path, "run.steps=2", *MEASURED, resume=True)
    assert again.exit_code == 0 and "psnr" in RunFolder(tmp_path / "run").evaluation.read_text()


@pytest.mark.parametrize(("asked", "measured"), [("0", None), ("7", "PARTIAL 7 of 215")])
def test_statistics_of_the_latents_have_a_switch(tmp_path: Path, asked: str, measured: str | None) -> None:
    done = vtp(tmp_path, "run.steps=1", f"evaluate.statistics_samples={asked}")
    assert done.exit_code == 0, done.output
    config = json.loads((tmp_path / "run" / "tokenizer" / "config.json").read_text())
    assert (config["latents_mean"] is None) == (measured is None)
    assert measured is None or measured in config["latents_stats_protocol"]
    assert ("latent statistics" in done.stderr) == (measured is not None)


PARTS = {
    "artefact": "vtp_core.artefact.folder.write_weights",
    "evaluation": "vtp_core.run.records.RunFolder.write_evaluation",
    "statistics": "vtp_core.run.finish.with_statistics",
    "report": "vtp_core.run.report.render",
}


def fail(error: Exception):
    def called(*args, **kwargs):
        raise error

    return called


@pytest.mark.parametrize("failing", ["artefact", "statistics", "evaluation report"])
def test_each_part_of_the_finish_stands_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, failing: str
) -> None:
    for part in failing.split():
        monkeypatch.setattr(
            PARTS[part], fail(OSError(errno.ENOSPC, "No space left on device", f"/full/{part}"))
        )
    run = tmp_path / "run"
    done = vtp(tmp_path, "run.steps=1", *MEASURED)
    first = failing.split()[0]
    assert done.exit_code == 74
    assert one_line(done) == f"error: /full/{first}: No space left on device; make room"
    made = {"artefact": run / "tokenizer", "evaluation": run / "eval.json", "report": run / "report.html"}
    assert {part for part, path in made.items() if path.exists()} == made.keys() - set(failing.split())
    if first == "evaluation":
        config = json.loads((run / "tokenizer/config.json").read_text())
        assert config["latents_mean"] is not None
    if failing == "evaluation report":
        assert (
            "the report failed too: FileError: /full/report: No space left on device; make room"
            in caplog.text
        )
        monkeypatch.undo()
        assert vtp(tmp_path, "run.steps=1", *MEASURED, resume=True).exit_code == 0
        assert all(path.exists() for path in made.values())


def test_an_error_of_a_plugin_loses_no_other_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vtp_core.run.finish.evaluate", fail(ZeroDivisionError("of a metric")))
    done = vtp(tmp_path, "run.steps=1", *MEASURED)
    assert done.exit_code == 1 and "internal error: ZeroDivisionError: of a metric" in done.stderr
    assert (tmp_path / "run/report.html").is_file()
    assert json.loads((tmp_path / "run/tokenizer/config.json").read_text())["latents_mean"] is not None


def test_weights_that_are_not_finite_give_a_report_and_no_artefact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vtp_core.run.finish._require_finite", fail(NumericError("weights are not finite")))
    done = vtp(tmp_path, "run.steps=1", *MEASURED)
    assert done.exit_code == 4 and one_line(done) == "error: weights are not finite"
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert "report.html" in names and not names & {"tokenizer", "eval.json"}


def test_a_full_disk_at_the_metrics_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "full"
    target.symlink_to("/dev/full")

    class OnFullDisk(MetricsLog):
        def __init__(self, path: Path, last_step: int | None = None) -> None:
            super().__init__(target, last_step)

    monkeypatch.setattr("vtp_core.run.loop.MetricsLog", OnFullDisk)
    done = vtp(tmp_path, "run.steps=1")
    assert done.exit_code == 74
    assert one_line(done) == f"error: {target}: No space left on device; make room"


def test_a_run_that_has_begun_is_resumed_without_the_weights_that_it_started_from(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).mkdir()
    assert vtp(tmp_path / "a", "run.steps=1").exit_code == 0
    sets = ("run.steps=2", f"init_from={tmp_path / 'a' / 'run'}")
    assert vtp(tmp_path / "b", *sets).exit_code == 0
    shutil.rmtree(tmp_path / "a")
    assert vtp(tmp_path / "b", *sets, resume=True).exit_code == 0
    fresh = vtp(tmp_path / "c", *sets)
    assert fresh.exit_code == 5 and "init_from: " in one_line(fresh)
