"""What `vtp run` refuses before step 0, and runs that freeze or end early without losing anything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.core.run.tiny_run import FAULTY, RECIPE, one_line, vtp
from tests.core.training.toy import L1, ToyObjective, add_teachers, batches, build
from vtp_core.errors import UsageError
from vtp_core.features import Losses
from vtp_core.training.forward.options import ForwardOptions
from vtp_core.training.joint import JointStep
from vtp_core.training.networks import Networks
from vtp_core.training.ranks.world import World


@pytest.mark.parametrize(
    ("override", "code", "words"),
    [
        ('evaluate.source={use="image_folder", path="/nowhere"}', 3, "/nowhere"),
        ('evaluators={probe={use="linear_probe"}}', 2, "evaluators.probe: image_folder"),
    ],
)
def test_an_evaluation_that_can_not_run_is_refused_before_step_0(tmp_path, override, code, words):
    from PIL import Image

    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (20, 20)).save(folder / "0.png")
    sets = [f'evaluate.source={{use="image_folder", path="{folder}"}}', override]
    result = vtp(tmp_path, *sets)
    assert result.exit_code == code
    assert words in one_line(result)
    assert not (tmp_path / "run").exists()


def test_a_frozen_objective_stays_in_checkpoint_and_artefact(tmp_path):
    result = vtp(tmp_path, 'freeze=["clip"]')
    assert result.exit_code == 0, result.output
    config = json.loads((tmp_path / "run" / "tokenizer" / "config.json").read_text())
    assert "clip" in config["heads"]


def test_a_checkpoint_beyond_the_last_step_is_refused(tmp_path):
    assert vtp(tmp_path, "run.steps=4").exit_code == 0
    result = vtp(tmp_path, "run.steps=3", resume=True)
    assert result.exit_code == 2
    assert "4 steps are made already" in one_line(result)


def test_a_damaged_checkpoint_that_init_from_names_is_refused(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    assert vtp(first, "run.steps=2").exit_code == 0
    (checkpoint,) = (first / "run/checkpoints").glob("step-*")
    assert vtp(second, "run.steps=2", f"init_from={checkpoint}").exit_code == 0
    file = checkpoint / "__0_0.distcp"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    result = vtp(second, "run.steps=2", f"init_from={checkpoint}", f"run.out={second / 'again'}")
    assert result.exit_code == 5
    assert "__0_0.distcp is damaged" in one_line(result)


class SubBatchPixels(ToyObjective):
    """A gradient with respect to the pixels of a sub-batch."""

    def forward(self, step):
        batch = step.batch("image")
        batch.crops["global"].requires_grad_()
        score = step.encode("image", attached=True).cls.square().sum()
        (slope,) = torch.autograd.grad(score, batch.crops["global"], create_graph=True)
        return Losses(terms={"slope": slope.square().mean()})


def test_pixel_gradients_of_a_sub_batch_leave_other_objectives_alone():
    networks = build("vtp")
    objectives = {"pixels": SubBatchPixels(rows=4), "l1": L1(view="image")}
    both = Networks(
        encoder=networks.encoder,
        bottleneck=networks.bottleneck,
        decoder=networks.decoder,
        objectives=objectives,
    )
    data = batches(0)
    result = JointStep(both, World(), ForwardOptions(total=1))(data, 0)
    assert result.terms["pixels/slope"] > 0
    assert not any(crop.requires_grad or crop.grad is not None for crop in data["image"].crops.values())


def test_an_objective_without_a_view_is_refused():
    networks = build("generation")

    class NoView(L1):
        def views(self):
            return {}

    networks.objectives = {"lost": NoView()}
    with pytest.raises(UsageError, match="'lost' names no view"):
        networks.check()


def test_helpers_are_those_an_objective_was_built_with():
    networks = add_teachers(build("vtp"))
    assert networks.helpers == {"perceptual.trunk"}
    for parameter in networks.parameters_of("clip").values():
        parameter.requires_grad_(False)
    assert any(name.startswith("objectives.clip.text") for name in networks.parameters_of("clip"))


def test_two_stages_may_not_share_a_folder(tmp_path):
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(RECIPE)
    from click.testing import CliRunner

    from vtp_core.cli.main import main

    shared = [str(recipe), str(recipe), "-s", f"run.out={tmp_path / 'both'}", "--plugin", str(FAULTY)]
    result = CliRunner().invoke(main, ["run", *shared])
    assert result.exit_code == 2
    assert "both write to" in result.stderr
    assert not Path(tmp_path / "both").exists()


@pytest.mark.slow
@pytest.mark.distributed
def test_two_stages_on_two_ranks_share_the_ranks(tmp_path):
    stages = []
    for name in ("first", "second"):
        text = RECIPE.replace('name = "tiny"', f'name = "{name}"')
        path = tmp_path / f"{name}.toml"
        path.write_text(text.replace("log_every = 1", f'log_every = 1\nout = "{tmp_path / name}"'))
        stages.append(str(path))
    command = [sys.executable, "-m", "vtp_core", "run", *stages, "--nproc", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    for name in ("first", "second"):
        assert (tmp_path / name / "report.html").is_file()
