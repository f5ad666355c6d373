"""A small tokenizer of first-party plugins, a run of it, and images: what tests of commands start from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from click.testing import CliRunner, Result
from PIL import Image

from vtp_core import load
from vtp_core.artefact.assembly import assemble
from vtp_core.artefact.from_recipe import artefact_config
from vtp_core.cli.main import main
from vtp_core.plugins import load_plugins
from vtp_core.recipe import dump_toml, load_recipe
from vtp_core.training.saving.checkpoint import save as save_checkpoint

RECIPE = """
name = "small"
[run]
steps = 3
[data.source]
use = "image_folder"
path = "{root}"
[views.image]
rows = 4
size = 16
augment = "center"
[encoder]
use = "vit"
width = 16
depth = 1
heads = 1
patch = 8
[bottleneck]
use = "linear"
channels = 6
[decoder]
use = "vit"
width = 16
depth = 1
heads = 1
[objectives.l1]
use = "l1"
view = "image"
[optimizer]
lr = 1e-3
[evaluate]
source = {{ use = "image_folder", path = "{root}" }}
"""


def make_home(root: Path) -> None:
    """Writes ``photos/<class>/*.png``, a run folder with a checkpoint, and an artefact."""
    rng = np.random.default_rng(0)
    for name, colour in (("red", (200, 50, 50)), ("blue", (50, 50, 200))):
        folder = root / "photos" / name
        folder.mkdir(parents=True)
        for i in range(6):
            pixels = np.clip(np.array(colour) + rng.normal(0, 30, (20, 24, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{name}{i}.png")
    (root / "recipe.toml").write_text(RECIPE.format(root=root / "photos"))
    plugins = load_plugins()
    recipe = load_recipe(root / "recipe.toml", plugins=plugins)
    torch.manual_seed(0)
    model = assemble(artefact_config(recipe, plugins, step=3), plugins)
    model.save(root / "artefact")
    run = root / "run"
    run.mkdir()
    (run / "resolved.toml").write_text(dump_toml(recipe))
    state = {}
    for part in ("encoder", "bottleneck", "decoder"):
        for name, value in getattr(model, part).state_dict().items():
            state[f"tokenizer.{part}.{name}"] = value
            if part == "encoder":
                state[f"ema.tokenizer.{part}.{name}"] = value + 1
    save_checkpoint(run / "checkpoints", 3, state, recipe={})


def vtp(*arguments: object) -> Result:
    """Runs a command in this process."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def finished(home: Path) -> Path:
    """A run folder with a tokenizer."""
    if not (home / "done").exists():
        load(home / "artefact").save(home / "done" / "tokenizer")
        (home / "done" / "resolved.toml").write_text((home / "run" / "resolved.toml").read_text())
    return home / "done"
