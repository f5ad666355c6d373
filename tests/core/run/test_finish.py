"""The end of a run: it shows what takes long, can be interrupted, and measures training images if need be."""

import json
import os
import signal
from pathlib import Path

import pytest

from tests.core.run.tiny_run import vtp
from vtp_core.evaluation import dataset
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
    crop = dataset.center_crop

    def interrupt(*arguments):
        os.kill(os.getpid(), signal.SIGINT)
        return crop(*arguments)

    monkeypatch.setattr(dataset, "center_crop", interrupt)
    stopped = vtp(tmp_path, "run.steps=2", *MEASURED)
    assert stopped.exit_code == 75
    last = stopped.stderr.splitlines()[-1]
    assert "interrupted after the last step; its 2 steps are saved" in last and "--resume" in last
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
