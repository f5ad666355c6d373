"""Views of height and width: crops, masks, a whole run, its artefact and its plan."""

from __future__ import annotations

import json
from pathlib import Path

import numpy
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from tests.core.data.making import DrawnSource
from vtp_core import load
from vtp_core.cli.main import main
from vtp_core.data.crops.geometry import random_box
from vtp_core.data.loading.loader import Loader
from vtp_core.recipe import load_recipe
from vtp_core.recipe.tables.views import CropConfig, MaskConfig, ViewConfig
from vtp_core.view import ViewNeed, size_text

RECIPE = """
[run]
steps = 2
out = "run"
device = "cpu"
threads = 1
log_every = 1
checkpoint_every = 1000

[data]
source = { use = "samples" }

[views.image]
rows = 4
size = [32, 48]
augment = "crop"

[views.ssl]
rows = 2
size = [32, 48]
augment = "dino"
crops.global = { count = 2 }
crops.local = { count = 2, size = [16, 24] }
masks = {}

[encoder]
use = "vit"
preset = "nano"
depth = 2
patch = 8

[bottleneck]
use = "linear"
channels = 4

[decoder]
use = "vit"
preset = "nano"
depth = 1

[objectives.l1]
use = "l1"
view = "image"

[objectives.dino]
use = "dino"
view = "ssl"
prototypes = 16
head_hidden = 16
head_width = 8

[objectives.mim]
use = "mim"
view = "ssl"
share_head_with = "dino"

[optimizer]
lr = 1e-3

[evaluate]
source = { use = "samples", split = "val" }
limit = 8
statistics_samples = 8

[evaluators.reconstruction]
use = "reconstruction"

[evaluators.knn]
use = "knn"
features = "latent_map"
neighbors = 2
"""


def vtp(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


@pytest.mark.parametrize("augment", ["none", "center", "center_flip", "clip", "crop", "dino", "dino_nominal"])
def test_crops_and_masks_have_height_and_width(augment: str) -> None:
    local = {"local": CropConfig(count=2, size=(8, 12))}
    view = ViewConfig(rows=4, size=(16, 24), augment=augment, crops=local, masks=MaskConfig(probability=1.0))
    needs = {"image": ViewNeed(crops=("global", "local"), masked=True)}
    sources = {"default": DrawnSource()}
    ((_, batches),) = Loader({"image": view}, needs, sources, seed=0, steps=1, patch=4, max_bad_fraction=1.0)
    batch = batches["image"]
    assert batch.crops["global"].shape == (4, 1, 3, 16, 24) and batch.crops["local"].shape == (4, 2, 3, 8, 12)
    assert batch.masks is not None and batch.masks.mask.shape == (4, 1, 24) and batch.masks.mask.any()


def test_parts_of_an_image_have_the_proportions_of_the_view() -> None:
    """A part of a wide view is as wide as it, so that the resize stretches no more than in a square one."""
    rng = numpy.random.default_rng(0)
    boxes = [random_box(400, 600, (0.2, 0.5), rng, 48 / 32) for _ in range(300)]
    ratios = [box.width / box.height / 1.5 for box in boxes]
    assert 0.74 < min(ratios) < 0.8 and 1.25 < max(ratios) < 1.35
    narrow = random_box(1000, 10, (1.0, 1.0), rng, 1.5)
    assert narrow.width == 10 and narrow.height == round(10 / (0.75 * 1.5))


def test_a_side_that_is_no_multiple_of_the_patch_is_named(tmp_path: Path) -> None:
    wrong = "views.image.size  expected a side in pixels or [height, width], got "
    for given, said in (
        ("[32, 44]", "44 is not a multiple of the encoder's patch 8"),
        *((value, wrong + value) for value in ("[32]", "[32, 0]", '"64"', "true", "64.5", "[8, 8, 8]")),
    ):
        (tmp_path / "r.toml").write_text(RECIPE.replace("[32, 48]", given, 1))
        result = vtp("validate", str(tmp_path / "r.toml"))
        assert result.exit_code == 2 and said in result.output, result.output


def test_a_run_of_rectangular_views_and_its_artefact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("wide.toml").write_text(RECIPE)
    result = vtp("run", "wide.toml")
    assert result.exit_code == 0, result.output
    assert load_recipe("run/resolved.toml").views["image"].size == (32, 48)
    protocol = json.loads(Path("run/eval.json").read_text())["psnr"]["protocol"]
    assert "32 x 48 px" in protocol
    model = load("run")
    assert model.config is not None and model.config.image_size == (32, 48)
    Image.new("RGB", (120, 80), "red").save("a.png")
    pixels = model.preprocess("a.png")
    assert pixels.shape == (1, 3, 32, 48)
    latent = model.encode(pixels).latent
    assert latent.shape == (1, 4, 4, 6) and model.decode(latent).sample.shape == pixels.shape
    assert "32 x 48 pixels" in repr(model) and "4 x 4 x 6" in repr(model)
    assert "4 x 4 x 6" in Path("run/tokenizer/README.md").read_text()
    processor = json.loads(Path("run/tokenizer/preprocessor_config.json").read_text())
    assert processor["crop_size"] == {"height": 32, "width": 48}
    assert (
        vtp("encode", "run", "a.png", "-o", "z.safetensors").stdout
        == "z.safetensors: latents 1 x 4 x 4 x 6\n"
    )
    Image.new("RGB", (80, 120), "red").save("b.png")
    made = vtp("encode", "run", "b.png", "-o", "z.safetensors").stdout
    assert made == "z.safetensors: latents 1 x 4 x 9 x 6\n", "the whole image covers what training saw"
    assert torch.isfinite(latent).all() and Path("run/report.html").is_file()


@pytest.mark.slow
def test_the_plan_counts_rectangles(tmp_path: Path) -> None:
    """32 x 48 pixels have the pixels and patches of 16 x 96."""
    plans = []
    for size, local in (("[32, 48]", "[16, 24]"), ("[16, 96]", "[8, 48]")):
        path = tmp_path / "r.toml"
        path.write_text(RECIPE.replace("[32, 48]", size).replace("[16, 24]", local))
        result = vtp("plan", str(path), "--json")
        assert result.exit_code == 0, result.output
        plans.append(json.loads(result.stdout))
    assert plans[0]["flops"] == plans[1]["flops"]


def test_sizes_in_words() -> None:
    assert (size_text(64), size_text((64, 64)), size_text((64, 96))) == ("64", "64", "64 x 96")
