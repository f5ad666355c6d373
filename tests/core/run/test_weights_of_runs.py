"""Weights that a run read are in its checkpoints and its artefact: their file is needed once."""

from __future__ import annotations

from pathlib import Path

import torch
from click.testing import CliRunner

import vtp_core
from tests.core.run.pretrained_encoder import Loaded, LoadedConfig
from tests.core.run.tiny_run import RECIPE, arguments, one_line, state, vtp
from vtp_core.cli.main import main
from vtp_core.plugins import load_plugins

PLUGIN = Path(__file__).with_name("pretrained_encoder.py")
LOADED = (
    RECIPE.replace(
        'use = "vit"\npatch = 8\nwidth = 32\ndepth = 1\nheads = 2', 'use = "pretrained_encoder.loaded"', 1
    )
    .replace(RECIPE[RECIPE.index("[views.image]") : RECIPE.index("[views.rec]")], "")
    .replace(RECIPE[RECIPE.index("[objectives.clip]") : RECIPE.index("[objectives.l1]")], "")
)


def test_a_resume_and_the_artefact_do_without_the_file(tmp_path: Path) -> None:
    torch.manual_seed(5)
    network = Loaded(LoadedConfig())
    file = tmp_path / "weights.pt"
    torch.save(network.state_dict(), file)
    sets = ('freeze=["encoder"]', f'encoder.weights="{file}"')
    options = {"recipe": LOADED, "plugin": PLUGIN}
    first = vtp(tmp_path, "run.steps=1", *sets, **options)
    assert first.exit_code == 0, first.output
    torch.testing.assert_close(
        state(tmp_path)["tokenizer.encoder.embed.weight"], network.embed.weight.detach()
    )
    file.unlink()
    fresh = vtp(tmp_path, "run.steps=1", *sets, f"run.out={tmp_path / 'other'}", **options)
    assert fresh.exit_code != 0
    assert "weights.pt" in one_line(fresh)
    called = arguments(tmp_path, "run.steps=2", *sets, resume=True, **options)
    resumed = CliRunner().invoke(main, [*called, "--allow-change"])
    assert resumed.exit_code == 0, resumed.output
    plugins = load_plugins(files=[PLUGIN])
    tokenizer = vtp_core.load(tmp_path / "run/tokenizer", plugins=plugins)
    torch.testing.assert_close(tokenizer.encoder.embed.weight, network.embed.weight)
