"""Evaluations during a run: lines on screen, curves, and the best checkpoint through rotation and resume."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from tests.core.run.tiny_run import assert_same_bits, metrics, one_line, start, state, vtp
from vtp_core import load
from vtp_core.artefact.assembly import training_modules
from vtp_core.cli.main import main
from vtp_core.errors import CheckpointError
from vtp_core.evaluation.history import Curve, curves, find_metric
from vtp_core.run.records import RunFolder
from vtp_core.training.saving.best import Best, improves, read_best, write_best
from vtp_core.training.saving.folder import find_latest

pytestmark = pytest.mark.slow

SCRIPTED = Path(__file__).with_name("scripted.py")
EVERY = ("evaluate.every=2", "run.keep_checkpoints=1")
BEST = 'evaluate.best="steps.score"'
STOP = 'callbacks.stop={{use = "faulty.signal", at = {}, first = true}}'


def script(*values: float, lower: bool = False) -> str:
    table = f'use = "scripted.script", values = {list(values)}, lower = {str(lower).lower()}'
    return f"evaluators.steps={{{table}}}"


def run(folder: Path, *sets: str, resume: bool = False):
    folder.mkdir(exist_ok=True)
    return vtp(folder, *EVERY, *sets, resume=resume, options=("--plugin", str(SCRIPTED)))


def kept(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "run/checkpoints").iterdir())


def test_evaluations_leave_a_line_and_a_row_and_change_no_step(tmp_path: Path) -> None:
    assert run(tmp_path / "plain", "evaluate.every=0").exit_code == 0
    result = run(tmp_path, script(0.25, 0.75, 0.5))
    assert result.exit_code == 0, result.output
    assert "step 2: score 0.25 (worse)\n" in result.stderr and "step 4: score 0.75\n" in result.stderr
    rows = metrics(tmp_path)
    assert [row for row in rows if "samples" in row] == metrics(tmp_path / "plain")
    assert [row["step"] for row in RunFolder(tmp_path / "run").read_steps()] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in rows] == [1, 2, 2, 3, 4, 4, 5, 6, 6]
    (curve,) = curves(rows)
    low = ((2, pytest.approx(0.05)), (4, pytest.approx(0.55)), (6, pytest.approx(0.3)))
    high = ((2, pytest.approx(0.45)), (4, pytest.approx(0.95)), (6, pytest.approx(0.7)))
    assert curve == Curve(
        metric="score",
        value=((2, 0.25), (4, 0.75), (6, 0.5)),
        low=low,
        high=high,
        baseline=((2, 0.5), (4, 0.5), (6, 0.5)),
    )
    assert json.loads((tmp_path / "run/eval.json").read_text())["score"]["value"] == 0.5
    assert kept(tmp_path) == ["latest", "step-00000006"]
    # Measuring the finished run again adds nothing.
    assert run(tmp_path, script(0.25, 0.75, 0.5), resume=True).exit_code == 0
    assert metrics(tmp_path) == rows


def test_the_best_checkpoint_outlives_rotation_and_is_known_by_name(tmp_path: Path) -> None:
    result = run(tmp_path, script(0.25, 0.75, 0.5), BEST)
    assert result.exit_code == 0, result.output
    assert kept(tmp_path) == ["best", "latest", "step-00000004", "step-00000006"]
    best = tmp_path / "run/checkpoints/best"
    assert best.read_text() == "step-00000004\nsteps.score 0.75\n"
    assert find_latest(best).manifest.step == 4 and find_latest(tmp_path / "run").manifest.step == 6
    plugin = ("--plugin", str(SCRIPTED))
    done = CliRunner().invoke(main, ["export", str(best), str(tmp_path / "out"), *plugin, "--no-statistics"])
    assert done.exit_code == 0 and "student of step-00000004" in done.stdout, done.output
    model = load(tmp_path / "out")
    assert model.config is not None and model.config.step == 4
    stopped = tmp_path / "stopped"
    assert run(stopped, STOP.format(4)).exit_code == 75
    expected = state(stopped)
    for name, module in training_modules(model).items():
        for key, value in module.state_dict().items():
            assert torch.equal(value, expected[f"{name}.{key}"]), key
    stage = run(tmp_path / "stage", f"init_from={best}", "run.steps=1", "evaluate.every=0")
    assert stage.exit_code == 0, stage.output
    table = '{ use = "scripted.script", values = [0.1, 0.2, 0.3] }'
    done = CliRunner().invoke(main, ["eval", str(best), "--evaluator", table, *plugin])
    assert done.exit_code == 0 and "0.2 " in done.stdout, done.output  # the value of step 4


def test_weights_that_are_not_finite_are_not_measured_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guard sees them at the next step; here they are sound again after one evaluation."""
    found = iter([["encoder.weight"], [], []])
    monkeypatch.setattr("vtp_core.evaluation.runner.broken_weights", lambda model: next(found))
    result = run(tmp_path, script(0.25, 0.75, 0.5), BEST)
    assert result.exit_code == 0, result.output
    assert "step 2: evaluation: the tokenizer's weight encoder.weight is not finite" in result.stderr
    assert [row["step"] for row in metrics(tmp_path) if "eval/score" in row] == [4, 6]


LOWER = (script(0.5, 0.25, 0.75, lower=True), BEST)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of `LOWER` that was never stopped."""
    folder = tmp_path_factory.mktemp("whole")
    assert run(folder, *LOWER).exit_code == 0
    return folder


@pytest.mark.parametrize(
    "at", [pytest.param(3, marks=pytest.mark.slow), 4, pytest.param(5, marks=pytest.mark.slow)]
)
def test_the_best_checkpoint_and_the_curve_outlive_a_stop(tmp_path: Path, whole: Path, at: int) -> None:
    """Also at step 4, where the stop comes before that step's evaluation."""
    sets = LOWER
    first = run(tmp_path, *sets, STOP.format(at))
    assert first.exit_code == 75, first.output
    again = run(tmp_path, *sets, STOP.format(at), resume=True)
    assert again.exit_code == 0, again.output
    assert metrics(tmp_path) == metrics(whole)
    assert kept(tmp_path) == kept(whole) == ["best", "latest", "step-00000004", "step-00000006"]
    assert read_best(tmp_path / "run/checkpoints").value == 0.25
    assert_same_bits(state(tmp_path), state(whole))


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (
            ('evaluate.best="step.score"',),
            'there is no [evaluators.step]; did you mean "steps"?',
        ),
        ((BEST, "evaluate.every=0"), "nothing is measured before the end; set evaluate.every"),
        (('evaluate.best="steps"',), "evaluate.best"),
        (('evaluate.best="r.psnr"', "evaluators.r.use='reconstruction'"), "evaluator r reads data; set"),
        (('evaluate.best="steps.scores"',), "evaluator steps declares no metric 'scores'"),
        (
            (BEST, "evaluators.steps.file=true"),
            "evaluator steps: evaluate.best names score, which is not measured with the files of its table",
        ),
    ],
)
def test_a_best_that_can_not_be_told_is_refused_before_step_0(tmp_path, sets, message) -> None:
    result = run(tmp_path, script(0.1, 0.2, 0.3), *sets)
    assert result.exit_code == 2 and message in result.stderr, result.stderr
    assert not (tmp_path / "run").exists()


def test_the_best_is_found_among_metrics_of_named_protocols_and_of_several_tables() -> None:
    results = {
        "psnr": {"evaluator": "a"},
        "b.psnr": {"evaluator": "b"},
        "psnr@p-v1-PARTIAL-5-of-9": {"evaluator": "c"},
        "d.psnr@p-v1": {"evaluator": "d"},
    }
    for (key, entry), name in zip(results.items(), "abcd", strict=True):
        assert find_metric(results, f"{name}.psnr") is entry, key
    assert find_metric(results, "a.ssim") is None and find_metric(results, "e.psnr") is None


def test_what_improves(tmp_path: Path) -> None:
    name = "steps.score"
    assert read_best(tmp_path) is None and improves(tmp_path, 2, name, 0.1, True)
    (tmp_path / "step-00000004").mkdir()
    write_best(tmp_path, "step-00000004", name, 0.1 + 0.2)
    assert read_best(tmp_path) == Best(path=tmp_path / "step-00000004", step=4, metric=name, value=0.1 + 0.2)
    for value, higher, better in (
        (0.4, True, True),
        (0.4, False, False),
        (0.2, True, False),
        (0.2, False, True),
    ):
        assert improves(tmp_path, 6, name, value, higher) == better
    assert not improves(tmp_path, 6, name, 0.1 + 0.2, True)
    assert improves(tmp_path, 6, "steps.other", 0.0, True)  # another metric
    assert improves(tmp_path, 2, name, 0.0, True)  # the run went back from step 4


NOTES = [
    b"",
    b"step-00000004",
    b"../x\na.b 1\n",
    b"step-00000004\na.b x\n",
    b"\xff\n",
    b"step-00000009\na.b 1\n",
]


@pytest.mark.parametrize("content", NOTES)
def test_a_damaged_note_of_the_best_names_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "step-00000004").mkdir()
    (tmp_path / "best").write_bytes(content)
    assert read_best(tmp_path) is None
    with pytest.raises(CheckpointError, match="best: names no checkpoint that is there"):
        find_latest(tmp_path / "best")


FAILS = 'evaluators.bad={{use = "scripted.script", values = [1.0, 1.0, 1.0], fails = {}}}'


def test_an_evaluator_that_fails_costs_no_other_number_and_no_training(tmp_path: Path) -> None:
    sets = (script(0.25, 0.5, 0.75), FAILS.format([2, 6]), BEST)
    result = run(tmp_path, *sets)
    assert result.exit_code == 3, result.output
    assert "step 2: evaluator bad is left out: no score at step 2" in result.stderr
    assert one_line(result) == "error: evaluator bad: no score at step 6"
    written = json.loads((tmp_path / "run/eval.json").read_text())
    assert written["score"]["value"] == 0.75 and written["left_out"] == {"bad": "no score at step 6"}
    by_name = {curve.metric: curve.value for curve in curves(metrics(tmp_path))}
    assert by_name == {"score": ((2, 0.25), (4, 0.5), (6, 0.75)), "bad.score": ((4, 1.0),)}
    assert kept(tmp_path) == ["best", "latest", "step-00000006"]
    assert read_best(tmp_path / "run/checkpoints").step == 6
    assert (tmp_path / "run/tokenizer/model.safetensors").is_file()
    assert "evaluator bad gave no number: no score at step 6" in (tmp_path / "run/report.html").read_text()


def test_what_an_evaluator_lacks_is_known_before_step_0(tmp_path: Path) -> None:
    """No second class name, weights that are not there, and a broken file, in this order."""
    folder = tmp_path / "photos" / "cat"
    folder.mkdir(parents=True)
    for number in range(6):
        Image.new("RGB", (20, 20), (number * 40, 90, 30)).save(folder / f"{number}.png")
    sets = ("evaluate.every=0", f'evaluate.source={{use = "image_folder", path = "{folder.parent}"}}')
    rest = "evaluators.r.use='reconstruction'"
    missing = "evaluators.l={use = 'reconstruction', lpips = 'lpips_vgg', lpips_weights = 'no.safetensors'}"
    result = run(tmp_path, *sets, rest, missing, "evaluators.z.use='zero_shot'")
    assert result.exit_code == 2
    assert "evaluators.z: the held-out source has no class names" in one_line(result)
    result = run(tmp_path, *sets, rest, missing)
    assert result.exit_code == 2 and "no.safetensors" in one_line(result)
    (folder / "2.png").write_bytes((folder / "2.png").read_bytes()[:60])
    result = run(tmp_path, *sets, "evaluate.limit=6", rest)
    assert result.exit_code == 3
    assert "1 of 6 evaluation samples can't be used: cat/2.png: " in one_line(result)
    assert not (tmp_path / "run").exists()


@pytest.mark.distributed
def test_two_ranks_keep_the_same_best(tmp_path: Path) -> None:
    process = start(
        tmp_path, *EVERY, script(0.25, 0.75, 0.5), BEST, options=("--plugin", str(SCRIPTED), "--nproc", "2")
    )
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert kept(tmp_path) == ["best", "latest", "step-00000004", "step-00000006"]
    assert [row["eval/score"] for row in metrics(tmp_path) if "eval/score" in row] == [0.25, 0.75, 0.5]
