from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from click.testing import CliRunner

from benchmarks.study.arm import Arm, Run
from benchmarks.study.record import write_record
from benchmarks.study.results import read_results
from benchmarks.study_gan_stage.__main__ import FOLDER, STUDY, main
from benchmarks.study_gan_stage.arms import FIRST_STEPS, make_arms
from benchmarks.study_gan_stage.critic import critic_course
from benchmarks.study_gan_stage.gradients import LATE_STEPS, gradient_norms
from benchmarks.study_gan_stage.quality import Distances, DistancesConfig
from benchmarks.study_gan_stage.verdict import write_verdict
from vtp_core.evaluation.evaluator import Observation, Split
from vtp_core.evaluation.protocol import Score
from vtp_core.plugins import load_plugins
from vtp_core.recipe import Recipe, load_recipe
from vtp_plugins.gan.config import GanConfig
from vtp_plugins.pretrained.packages import PACKAGES


def logged(name: str, values: Sequence[float | None]) -> list[dict[str, Any]]:
    return [{"step": i + 1, name: value} for i, value in enumerate(values)]


def test_gradient_norms_leave_out_the_start_and_know_the_end() -> None:
    norms = [1000.0] * 30 + list(numpy.linspace(1, 3, 201)) + [4.0] * 99 + [8.0]
    found = gradient_norms(logged("grad_norm/decoder", norms))
    rest = sorted(norms[33:])
    assert found["gradient_median"] == pytest.approx((rest[148] + rest[149]) / 2)
    assert found["gradient_p99"] == pytest.approx(4.0)
    assert found["gradient_tail"] == pytest.approx(4.0 / found["gradient_median"])
    late = {"late_gradient_median": 4.0, "late_gradient_p99": 4.0 + 0.01 * 4, "late_gradient_tail": 1.01}
    assert {name: found[name] for name in late} == pytest.approx(late)


@pytest.mark.parametrize("norms", [[], [1.0, None]])
def test_gradient_norms_want_every_step(norms: list[float | None]) -> None:
    with pytest.raises(ValueError, match="finite"):
        gradient_norms(logged("grad_norm/decoder", norms))


def test_the_critics_course_is_of_the_steps_in_which_it_is_seen() -> None:
    steps = [
        {
            "report/gan.critic/accuracy": accuracy,
            "report/gan/d_weight": 10 * accuracy,
            "report/gan/exposure": seen,
        }
        for accuracy, seen in ((0.5, 0.0), (0.5, 0.0), (0.5, 0.0), (0.6, 0.5), (0.7, 1.0), (0.9, 1.0))
    ]
    assert critic_course(steps) == pytest.approx({"critic_accuracy": 0.7, "d_weight": 7.0})
    assert critic_course(logged("loss", [1.0])) == {}


def test_networks_are_those_of_the_extra_offline() -> None:
    known = {*PACKAGES, "lpips_squeeze_ndf"}
    for recipe in recipes(tiny=False).values():
        assert {
            table.model_dump()["network"]
            for name, table in recipe.evaluators.items()
            if name != "reconstruction"
        } <= known
        if "gan" in recipe.objectives:
            assert recipe.objectives["gan"].model_dump()["critic"]["network"] in known


def test_the_critic_is_seen_in_full_in_the_steps_that_are_compared() -> None:
    second = recipes(tiny=False)["two_stages"]
    gan = second.objectives["gan"]
    assert isinstance(gan, GanConfig)
    assert gan.warmup and gan.ramp and gan.exposure(second.run.steps - LATE_STEPS) == 1


def recipes(tiny: bool) -> dict[str, Recipe]:
    plugins = load_plugins([FOLDER / "quality.py"])
    found = {}
    for arm in make_arms(tiny):
        run = Run(arm, 0)
        found[arm.name] = load_recipe(str(arm.recipe), run.overrides, plugins=plugins)
        if arm.first is not None:
            found["first"] = load_recipe(str(arm.first), run.first_overrides, plugins=plugins)
    return found


def test_the_arms_differ_in_the_critic_alone_and_have_equal_steps() -> None:
    assert recipes(tiny=True).keys() == recipes(tiny=False).keys()
    found = recipes(tiny=False)
    plain, always, second, first = (found[name] for name in ("no_gan", "gan_always", "two_stages", "first"))
    for part in ("run", "views", "encoder", "bottleneck", "decoder", "optimizer"):
        if part == "run":
            assert always.run.model_copy(update={"out": plain.run.out}) == plain.run
        else:
            assert getattr(always, part) == getattr(plain, part)
            assert getattr(first, part) == getattr(plain, part)
    assert set(always.objectives) - set(plain.objectives) == {"gan"}
    assert second.freeze == ("encoder", "bottleneck") and not plain.freeze and not always.freeze
    assert first.run.steps + second.run.steps == plain.run.steps == FIRST_STEPS + 170
    assert {recipe.run.log_every for recipe in found.values()} == {1}


def test_a_digest_knows_the_first_stage_and_is_what_it_was_without_one(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text("[run]\nsteps = 1\n")
    plain = Run(Arm(name="a", about="", recipe=tmp_path / "recipe.toml"), 3)
    text = '{"run": {"seed": 3, "steps": 1}}'
    assert plain.digest() == hashlib.sha256(text.encode()).hexdigest()[:16]
    arm = make_arms()[2]
    changed = dataclasses.replace(arm, first_overrides=("run.steps=7",))
    assert Run(arm, 0).digest() != Run(changed, 0).digest()


class FakeModel:
    device = torch.device("cpu")


class FakeObservation(Observation):
    """Images, and what a tokenizer made of them."""

    def __init__(self, image: torch.Tensor, output: torch.Tensor) -> None:
        self.split: Split = "held_out"
        self.image = image
        self.reconstruction = output


def mean_colour(score: Score) -> float | None:
    return score.baseline if score.baseline is not None else score.baselines["mean colour"].value


@pytest.mark.parametrize("network", ["timm:tf_efficientnet_lite0", "lpips_squeeze"])
def test_distances_are_nothing_for_a_copy_and_the_baseline_for_the_mean_colour(network: str) -> None:
    evaluator = Distances(DistancesConfig(network=network, weights="random", side=32))
    image = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8)
    flat = image.float().mean((2, 3), keepdim=True).round().expand_as(image).to(torch.uint8)
    evaluator.begin(FakeModel(), ())
    evaluator.update(FakeObservation(image[:4], image[:4]))
    evaluator.update(FakeObservation(image[4:], image[4:]))
    same = evaluator.compute(evaluator.state())
    assert same["perceptual"].value == 0 and same["frechet"].value == pytest.approx(0, abs=1e-6)
    evaluator.begin(FakeModel(), ())
    evaluator.update(FakeObservation(image, flat))
    worst = evaluator.compute(evaluator.state())
    for name in ("perceptual", "frechet"):
        assert worst[name].value == pytest.approx(mean_colour(worst[name]), rel=1e-6)
        assert mean_colour(worst[name]) == pytest.approx(mean_colour(same[name]), rel=1e-3)
        assert worst[name].value > 0 and not evaluator.metrics[name].higher_is_better


def test_nothing_is_claimed_without_results(tmp_path: Path) -> None:
    text = write_verdict(read_results(make_arms(), tmp_path))
    assert "0 of 9 runs are there" in text and "appeared" not in text and text.count(": open [") == 23


def test_the_verdict_follows_the_records(tmp_path: Path) -> None:
    for place, arm in enumerate(make_arms()):
        for seed in arm.seeds:
            values = {column.metric: {"value": 1 + place + 0.1 * seed} for column in STUDY.columns}
            values |= {"critic_accuracy": {"value": 0.625}} if place else {}
            record = {"settings": Run(arm, seed).digest(), "data": "cifar10", "metrics": values}
            write_record(record, tmp_path / f"{arm.name}_seed{seed}.json")
    text = write_verdict(read_results(make_arms(), tmp_path))
    assert "9 of 9 runs are there" in text
    assert "- p99: gan_always > no_gan: appeared [2.10 (2.00 to 2.20) against 1.10 (1.00 to 1.20); " in text
    assert "\n- no_gan > gan_always: reversed [1.10 (" in text
    assert "- two_stages: 0.625 (0.625 to 0.625), –" in text
    assert text.count("no_gan > two_stages: reversed") == 4


def test_committed_records_are_current_and_name_no_folder() -> None:
    for path in sorted((STUDY.folder / "results").glob("*.json")):
        assert '"/' not in path.read_text(), path
    assert read_results(make_arms(), STUDY.folder / "results").stale == []


@pytest.mark.slow
def test_the_whole_study_in_small(tmp_path: Path) -> None:
    results = tmp_path / "results"
    arguments = ["--tiny", "--results", str(results)]
    runner = CliRunner()
    made = runner.invoke(
        main,
        [*arguments, "run", "--seeds", "0", "--only", "gan_always,two_stages", "--work", str(tmp_path / "w")],
    )
    assert made.exit_code == 0, made.output
    always, staged = (json.loads(path.read_text()) for path in sorted(results.iterdir()))
    assert always["arm"] == "gan_always" and staged["arm"] == "two_stages"
    assert staged["first_steps"] == staged["steps"] == always["steps"] == 4
    assert staged["sessions"] == 2 and staged["flops"] > 4 * staged["flops_per_step"]
    for record in (always, staged):
        shown = {column.metric for column in STUDY.columns}
        assert shown | {"late_gradient_p99", "critic_accuracy", "d_weight"} <= record["metrics"].keys()
        assert record["metrics"]["gradient_p99"]["value"] >= record["metrics"]["gradient_median"]["value"] > 0
    assert "2 of 9 runs are there" in runner.invoke(main, [*arguments, "table"]).output
