"""What both sides of the comparison train: sizes, the recipe, fixed rows."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from vtp_core.batch import Batch, Masks
from vtp_core.plugins import Plugins
from vtp_core.recipe import Recipe, load_recipe

PATCH = 8
GLOBAL, LOCAL, IMAGE = 56, 24, 64
"""Pixels a side of the global crops, the local crops, and the other views' images: 224 : 96 : 256."""
GLOBALS, LOCALS = 2, 8
CONTEXT = 20
CHANNELS = 64
TEACHER_TEMPERATURE, STUDENT_TEMPERATURE = 0.05, 0.1
CLIP_NORM, LEARNING_RATE, WEIGHT_DECAY, MOMENTUM = 3.0, 1e-4, 0.1, 0.994
PIXEL_WEIGHT = KOLEO_WEIGHT = 0.1


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of the networks and of a step.

    Attributes:
        rows: Rows B of the contrastive view; a quarter of them has crops, an eighth is reconstructed.
        width: Width of all transformers.
        depth: Blocks of each.
        heads: Heads of each.
        prototypes: Prototypes K.
        hidden: Width of the head's hidden layers.
        merges: Merges of the caption tokenizer.
    """

    rows: int = 32
    width: int = 384
    depth: int = 6
    heads: int = 6
    prototypes: int = 8192
    hidden: int = 2048
    merges: int = 7678

    @property
    def eighth(self) -> int:
        """Rows that are reconstructed."""
        return max(self.rows // 8, 1)


TINY = Sizes(rows=8, width=32, depth=1, heads=2, prototypes=24, hidden=32, merges=100)
"""For tests."""

_RECIPE = """\
schema = 1
name = "joint_step"
run = {{ steps = 1000000, seed = 0 }}
data.source = {{ use = "samples", split = "train" }}
views.image = {{ rows = {rows}, size = {IMAGE}, augment = "clip" }}
views.rec = {{ rows = {eighth}, size = {IMAGE}, augment = "crop" }}
encoder = {{ use = "vit", patch = {PATCH}, width = {width}, depth = {depth}, heads = {heads} }}
bottleneck = {{ use = "linear", channels = {CHANNELS} }}
decoder = {{ use = "vit", width = {width}, depth = {depth}, heads = {heads} }}
ema.momentum = {MOMENTUM}

[views.ssl]
rows = {quarter}
size = {GLOBAL}
augment = "crop"
crops.global = {{ count = {GLOBALS}, scale = [0.4, 1.0] }}
crops.local = {{ count = {LOCALS}, size = {LOCAL}, scale = [0.1, 0.4] }}
masks = {{}}

[objectives.clip]
use = "clip"
view = "image"
width = {width}
depth = {depth}
heads = {heads}
context = {CONTEXT}
merges = {merges}

[objectives.dino]
use = "dino"
view = "ssl"
prototypes = {prototypes}
head_hidden = {hidden}
freeze_prototypes = 0
student_temperature = {STUDENT_TEMPERATURE}
teacher_temperature = {TEACHER_TEMPERATURE}

[objectives.mim]
use = "mim"
view = "ssl"
share_head_with = "dino"
student_temperature = {STUDENT_TEMPERATURE}
teacher_temperature = {TEACHER_TEMPERATURE}

[objectives.koleo]
use = "koleo"
view = "ssl"
weight = {KOLEO_WEIGHT}

[objectives.l1]
use = "l1"
view = "rec"
weight = {PIXEL_WEIGHT}

[optimizer]
lr = {LEARNING_RATE}
weight_decay = {WEIGHT_DECAY}
clip = {CLIP_NORM}
"""


def recipe(sizes: Sizes, overrides: Sequence[str], plugins: Plugins, *, shared: bool = False) -> Recipe:
    """The recipe of the joint step.

    Args:
        sizes: Sizes.
        overrides: ``key=value`` as on the command line.
        plugins: Where components come from.
        shared: Whether the pixel loss reads the first rows of the contrastive view instead of its own view.
    """
    constants = {name: value for name, value in globals().items() if name.isupper()}
    text = _RECIPE.format(**constants, **vars(sizes), quarter=sizes.rows // 4, eighth=sizes.eighth)
    if shared:
        lines = (line for line in text.splitlines() if not line.startswith("views.rec"))
        text = "\n".join(lines).replace('view = "rec"', f'view = "image"\nrows = {sizes.eighth}')
    with tempfile.TemporaryDirectory(prefix="vtp-bench-") as folder:
        path = Path(folder) / "joint_step.toml"
        path.write_text(text)
        return load_recipe(path, tuple(overrides), plugins)


def fixed_batches(sizes: Sizes) -> dict[str, Batch]:
    """Normal noise as pixels, distinct captions, half of the global crops masked by 10 to 50 %."""
    draw = torch.Generator().manual_seed(1)
    rows, quarter, eighth = sizes.rows, sizes.rows // 4, sizes.eighth
    images = torch.randn(rows, 1, 3, IMAGE, IMAGE, generator=draw)
    crops = {
        "global": torch.randn(quarter, GLOBALS, 3, GLOBAL, GLOBAL, generator=draw),
        "local": torch.randn(quarter, LOCALS, 3, LOCAL, LOCAL, generator=draw),
    }
    patches = (GLOBAL // PATCH) ** 2
    mask = torch.zeros(quarter, GLOBALS, patches, dtype=torch.bool)
    for row in range(quarter):
        count = max(int(patches * (0.1 + 0.4 * (row + 0.5) / quarter)), 1)
        mask[row, 0, torch.randperm(patches, generator=draw)[:count]] = True
    weight = mask / mask.sum(-1, keepdim=True).clamp_min(1)
    keys = tuple(str(row) for row in range(rows))
    captions = tuple(f"drawing {row} of {word}" for row, word in enumerate(_words(rows)))
    return {
        "image": Batch(crops={"global": images}, keys=keys, text=captions, rows=rows),
        "ssl": Batch(crops=crops, keys=keys[:quarter], masks=Masks(mask=mask, weight=weight), rows=quarter),
        "rec": Batch(crops={"global": images[:eighth]}, keys=keys[:eighth], rows=eighth),
    }


def _words(count: int) -> list[str]:
    words = ("a red boat at sea", "two green birds", "an old house on a hill", "the map of a town")
    return [words[row % len(words)] for row in range(count)]
