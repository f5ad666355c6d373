"""Steps to a distance against a formula, findings, the enlarged network; the whole study at tiny sizes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from benchmarks.study.arm import Run
from benchmarks.study.proxies import KERNEL
from benchmarks.study.record import write_record
from benchmarks.study.results import Results, read_results
from benchmarks.study_convergence.__main__ import STUDY, main
from benchmarks.study_convergence.arms import AE, DISTILLED, JOINT, is_tiny, make_arms
from benchmarks.study_convergence.enlarged import Enlarged, EnlargedConfig
from benchmarks.study_convergence.making import CURVE
from benchmarks.study_convergence.speed import curves, finding, findings, speeds
from benchmarks.study_convergence.verdict import write_verdict
from vtp_core.plugins import load_plugins
from vtp_core.recipe import load_recipe

STEPS = (100, 200, 400)


def test_arms_are_valid_recipes_of_one_width_that_differ() -> None:
    plugins = load_plugins(STUDY.plugins)
    arms = make_arms()
    assert [arm.name for arm in arms] == [AE, DISTILLED, JOINT]
    assert len({Run(arm, 0).digest() for arm in arms}) == 3
    recipes = [load_recipe(str(arm.recipe), Run(arm, 0).overrides, plugins=plugins) for arm in arms]
    assert {recipe.bottleneck.channels for recipe in recipes} == {16}
    assert {recipe.run.steps for recipe in recipes} == {800}
    for arm, small in zip(arms, make_arms(tiny=True), strict=True):
        assert arm.name == small.name and is_tiny(small) and not is_tiny(arm)


def test_the_enlarged_network_is_the_network_on_enlarged_images() -> None:
    table = {"name": "tf_efficientnet_lite0", "norm": "none", "patch": 16, "weights": "random"}
    encoder = Enlarged(EnlargedConfig.model_validate({**table, "factor": 4})).eval()
    assert encoder.patch == 4 and encoder.width == 112 and encoder.grid(32, 32) == (8, 8)
    images = torch.randn(2, 1, 3, 32, 32)
    (tokens,) = encoder([images], [None])
    large = torch.nn.functional.interpolate(images[:, 0], size=(128, 128), mode="bicubic")
    (expected,) = encoder.network([large[:, None]], [None])
    assert tokens.grid == (8, 8) and tokens.patches.shape == (2, 1, 64, 112)
    torch.testing.assert_close(tokens.patches, expected.patches)


def records(folder: Path, kernels: Sequence[Mapping[str, Sequence[float]]]) -> Results:
    """Records with these kernel distances after `STEPS`: one mapping from arms a seed."""
    folder.mkdir()
    for arm in make_arms():
        for seed, by_arm in enumerate(kernels):
            run = Run(arm, seed)
            points = [
                {"step": step, "epochs": step / 10, "kernel": kernel}
                for step, kernel in zip(STEPS, by_arm[arm.name], strict=True)
            ]
            record = {"settings": run.digest(), "data": "cifar10", "seed": seed, "metrics": {}, CURVE: points}
            write_record(record, folder / f"{run.name}.json")
    return read_results(make_arms(), folder)


SLOW, FAST, MIDDLE = (0.9, 0.7, 0.5), (0.8, 0.4, 0.2), (0.7, 0.6, 0.4)


def test_steps_are_read_from_the_curves_at_the_distance_that_all_reach(tmp_path: Path) -> None:
    found = records(tmp_path / "records", [{AE: MIDDLE, DISTILLED: SLOW, JOINT: FAST}] * 2)
    first, second = speeds(found)
    assert first.level == 0.5 and (first.seed, second.seed) == (0, 1)
    assert first.steps[DISTILLED].steps == pytest.approx(400)
    # Linear in the logarithm of the step: from 0.8 at 100 to 0.4 at 200, and from 0.6 at 200 to 0.4 at 400.
    assert first.steps[JOINT].steps == pytest.approx(100 * 2 ** (0.3 / 0.4))
    assert first.steps[AE].steps == pytest.approx(200 * 2 ** (0.1 / 0.2))
    assert first.ratio(DISTILLED, JOINT) == pytest.approx(4 / 2**0.75)
    assert [*findings(found).values()] == ["appeared"]
    text = write_verdict(found)
    assert "steps on distilled over steps on joint, by seed: 2.38, 2.38; more than 1: appeared" in text
    assert "| 0 | 0.5000 | 283 steps | 400 steps | 168 steps |" in text


def test_a_seed_without_all_curves_is_left_out(tmp_path: Path) -> None:
    found = records(tmp_path / "records", [{AE: MIDDLE, DISTILLED: SLOW, JOINT: FAST}] * 2)
    del found.records[JOINT][1][CURVE]  # type: ignore[attr-defined]
    assert list(curves(found)) == [0] and [*findings(found).values()] == ["open"]
    assert "No seed has the curves" in write_verdict(read_results(make_arms(), tmp_path))


@pytest.mark.parametrize(
    ("ratios", "said"),
    [
        ([], "open"), ([3.0], "open"), ([1.1, 2.0], "appeared"), ([0.5, 0.9], "reversed"),
        ([0.9, 2.0], "leaning"), ([0.5, 1.5], "absent"), ([1.0, 1.0], "absent"),
    ],
)  # fmt: skip
def test_findings(ratios: list[float], said: str) -> None:
    assert finding(ratios) == said
    if ratios:
        assert (math.prod(ratios) > 1) == (said in ("appeared", "leaning") or ratios == [3.0])


@pytest.mark.slow
def test_the_whole_study_in_small(tmp_path: Path) -> None:
    results = tmp_path / "results"
    arguments = ["--tiny", "--results", str(results)]
    chosen = ["--seeds", "1", "--work", str(tmp_path / "work")]
    runner = CliRunner()
    made = runner.invoke(main, [*arguments, "run", *chosen])
    assert made.exit_code == 0 and "all chosen runs are there" in made.output, made.output
    distilled = json.loads((results / "distilled_seed1.json").read_text())
    assert distilled["metrics"][KERNEL]["value"] == distilled[CURVE][-1]["kernel"]
    assert [point["step"] for point in distilled[CURVE]] == [1, 2]
    assert any(name.startswith("loss/align") for name in distilled["training"])
    assert runner.invoke(main, [*arguments, "run", *chosen]).output == "all chosen runs are there\n"
    drawn = runner.invoke(main, [*arguments, "plot", str(tmp_path / "plot.png")])
    assert drawn.exit_code == 0 and (tmp_path / "plot.png").stat().st_size > 1000, drawn.output
    assert "; more than 1: open" in runner.invoke(main, [*arguments, "verdict"]).output
