"""Small recipes to plan."""

from __future__ import annotations

from pathlib import Path

from vtp_core.plugins import Plugins
from vtp_core.recipe import load_recipe
from vtp_core.recipe.tables.recipe import Recipe

TEXT = """\
[run]
steps = 10
device = "cpu"

[data.source]
use = "image_folder"
path = "/nowhere"

[views.image]
rows = 24
size = 32
augment = "crop"

[encoder]
use = "vit"
width = 32
depth = 5
heads = 2
patch = 8

[bottleneck]
use = "linear"
channels = 8

[decoder]
use = "vit"
width = 48
depth = 3
heads = 2

[objectives.l1]
use = "l1"
view = "image"

[optimizer]
lr = 1e-3
"""

CLIP = """\

[views.pairs]
rows = 16
size = 32
augment = "clip"

[objectives.clip]
use = "clip"
view = "pairs"
width = 32
depth = 4
heads = 2
context = 16
rows = 8
"""


def recipe(
    folder: Path, plugins: Plugins, *overrides: str, text: str = TEXT, world_size: int | None = None
) -> Recipe:
    """A recipe from its text."""
    if "clip" in text:
        text = text.replace('use = "image_folder"\npath = "/nowhere"', 'use = "samples"')
    path = folder / "small.toml"
    path.write_text(text)
    return load_recipe(path, overrides, plugins, world_size)
