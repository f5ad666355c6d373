"""An augmentation of a plugin: through a recipe, the loader, several workers and ranks; and its rules."""

from __future__ import annotations

import random
import re
from pathlib import Path

import numpy
import pytest
import torch
from torchvision.transforms.v2 import TrivialAugmentWide

import vtp_core as vtp
from tests.core.data.making import DrawnSource
from vtp_core.data.loading.loader import Loader
from vtp_core.errors import DataError
from vtp_core.plugins import Plugins, UnknownComponent
from vtp_core.recipe import RecipeErrors, dump_toml, load_recipe
from vtp_core.recipe.tables.views import CropConfig, ViewConfig
from vtp_core.testing import ConformanceError, check_augmentation
from vtp_core.view import ViewNeed


class TrivialConfig(vtp.AugmentationConfig):
    """A table `augment = { use = "foo.trivial", bins = 31 }`."""

    bins: int = 31
    """Strengths to choose from."""

    def cuts_at_random(self) -> bool:
        """The central part is all that it takes."""
        return False


class Trivial(vtp.Augmentation):
    """torchvision's TrivialAugment on the central square, which draws from torch's global generator."""

    config: TrivialConfig

    def __call__(self, image, crop, rng):
        side = min(image.shape[:2])
        top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
        pixels = torch.from_numpy(image[top : top + side, left : left + side].copy()).permute(2, 0, 1)
        pixels = torch.nn.functional.interpolate(pixels[None], crop.size, mode="nearest")[0]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(2**62)))
            return TrivialAugmentWide(self.config.bins)(pixels)


class Broken(Trivial):
    """Returns what a crop is not."""

    def __call__(self, image, crop, rng):
        return super().__call__(image, crop, rng).float()


class Foo:
    """The plugin."""

    vtp_api = 2

    @staticmethod
    @vtp.hookimpl
    def register_augmentations(register: vtp.Register) -> None:
        """Two augmentations."""
        register("trivial", Trivial, config=TrivialConfig)
        register("broken", Broken, config=TrivialConfig)


@pytest.fixture
def plugins() -> Plugins:
    """What is installed: the plugin alone."""
    found = Plugins()
    found.add(Foo, "foo")
    return found


def views(use: str = "foo.trivial") -> dict[str, ViewConfig]:
    """Two views, one of the plugin's augmentation."""
    return {
        "ssl": ViewConfig(
            rows=8,
            size=16,
            augment=TrivialConfig(use=use),
            crops={"global": CropConfig(count=2), "local": CropConfig(count=3, size=8)},
        ),
        "clip": ViewConfig(rows=16, size=16, augment="clip"),
    }


NEEDS = {"ssl": ViewNeed(crops=("global", "local")), "clip": ViewNeed()}


def crops(plugins: Plugins | None, use: str = "foo.trivial", **options: int) -> list[dict[str, torch.Tensor]]:
    """All pixels of three steps of a rank."""
    loader = Loader(
        views(use), NEEDS, {"default": DrawnSource()}, seed=5, steps=3, patch=4, plugins=plugins, **options
    )
    return [
        {f"{view}.{name}": pixels for view, batch in batches.items() for name, pixels in batch.crops.items()}
        for _, batches in loader
    ]


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("workers", [0, 2])
def test_crops_are_the_same_for_any_number_of_workers_and_ranks(
    plugins: Plugins, world_size: int, workers: int
) -> None:
    whole = crops(plugins)
    assert any(not torch.equal(whole[0]["ssl.global"][:, 0], whole[0]["ssl.global"][:, 1]) for _ in whole)
    torch.manual_seed(world_size + workers)
    for rank in range(world_size):
        for mine, every in zip(
            crops(plugins, workers=workers, rank=rank, world_size=world_size), whole, strict=True
        ):
            assert mine.keys() == every.keys()
            for name, pixels in mine.items():
                assert torch.equal(pixels, every[name][rank::world_size]), name


def test_another_augmentation_changes_no_crop_of_another_view(plugins: Plugins) -> None:
    loader = Loader(
        views() | {"ssl": ViewConfig(rows=8, size=16, augment="dino")}, NEEDS | {"ssl": ViewNeed()},
        {"default": DrawnSource()}, seed=5, steps=3, patch=4,
    )  # fmt: skip
    for (_, batches), pixels in zip(loader, crops(plugins), strict=True):
        assert torch.equal(batches["clip"].crops["global"], pixels["clip.global"])


@pytest.mark.parametrize("workers", [0, 2])
def test_anything_but_pixels_is_one_clear_error(plugins: Plugins, workers: int) -> None:
    expected = r"step 0: views\.ssl: augmentation foo\.broken returned \(3, 16, 16\) torch\.float32, expected"
    with pytest.raises(DataError, match=expected) as error:
        crops(plugins, "foo.broken", workers=workers)
    assert "\n" not in str(error.value)


def test_a_missing_plugin_is_named_before_the_first_step() -> None:
    with pytest.raises(UnknownComponent, match='no plugin "foo" is installed'):
        crops(None)


RECIPE = Path("recipes/quickstart.toml").read_text()


def loaded(tmp_path: Path, augment: str) -> vtp.Table:
    """The quickstart with another augmentation, and the plugin."""
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE.replace('augment = "clip"', f"augment = {augment}"))
    from vtp_core.plugins import load_plugins

    plugins = load_plugins()
    plugins.add(Foo, "foo")
    return load_recipe(path, plugins=plugins)


def test_a_name_and_its_table_are_the_same_recipe(tmp_path: Path) -> None:
    short, long = loaded(tmp_path, '"clip"'), loaded(tmp_path, '{ use = "clip" }')
    assert short == long
    assert short.model_dump(mode="json") == long.model_dump(mode="json")
    assert short.model_dump(mode="json")["views"]["image"]["augment"] == "clip"
    assert 'augment = "clip"' in dump_toml(long)


def test_a_recipe_with_it_goes_round(tmp_path: Path) -> None:
    recipe = loaded(tmp_path, '{ use = "foo.trivial", bins = 5 }')
    assert (
        isinstance(recipe.views["image"].augment, TrivialConfig) and recipe.views["image"].augment.bins == 5
    )
    text = dump_toml(recipe)
    assert '[views.image.augment]\nuse = "foo.trivial"\nbins = 5' in text
    assert loaded(tmp_path, '{ use = "foo.trivial", bins = 5 }') == recipe


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        ('{ use = "foo.trivial", bin = 5 }', r'augment\.bin .* did you mean "bins"\?'),
        ('{ use = "foo.trivial", bins = "5" }', r"augment\.bins +expected an integer"),
        ('{ use = "foo.trivia" }', r'augment\.use +unknown augmentation .* did you mean "foo\.trivial"\?'),
        ('{ use = "klip" }', r'augment\.use +unknown augmentation "klip": did you mean "clip"\?'),
        ('{ use = "linear" }', r"augment\.use .* it is a bottleneck, not an augmentation"),
        ('{ use = "clip", bins = 5 }', r"augment\.bins +unknown key"),
        (
            "{ bins = 5 }",
            r"augment\.use +missing; names the augmentation: center, center_flip, clip, .*foo\.triv",
        ),
        (
            '"foo.trivial"',
            r'augment +expected "none", .* or a table such as .* got the string "foo\.trivial"',
        ),
        ('"center"\ncrops.global = { scale = [0.1, 0.2] }', r'needs a random crop, but augment is "center"'),
        (
            '{ use = "foo.trivial" }\ncrops.global = { scale = [0.1, 0.2] }',
            r'needs a random crop, but augment is "foo\.trivial"',
        ),
    ],
)
def test_a_mistake_in_it_is_one_error(tmp_path: Path, augment: str, message: str) -> None:
    with pytest.raises(RecipeErrors) as error:
        loaded(tmp_path, augment)
    assert len(error.value.problems) == 1
    assert re.search(message, str(error.value)), str(error.value)


def test_check_augmentation_passes_it() -> None:
    before = random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state()
    check_augmentation(Trivial, TrivialConfig(use="foo.trivial"))
    assert before[:2] == (random.getstate(), numpy.random.get_state()[1].tolist())
    assert torch.equal(before[2], torch.get_rng_state())


class Global(Trivial):
    """Draws from the global generator."""

    def __call__(self, image, crop, rng):
        return TrivialAugmentWide()(super().__call__(image, crop, rng))


class Reading(Trivial):
    """Depends on the global generator without drawing from it."""

    def __call__(self, image, crop, rng):
        return super().__call__(image, crop, rng) ^ (torch.get_rng_state()[0] % 2)


class Counting(Trivial):
    """Keeps state."""

    calls = 0

    def __call__(self, image, crop, rng):
        self.calls += 1
        return super().__call__(image, crop, rng).roll(self.calls, -1)


class Writing(Trivial):
    """Changes the image."""

    def __call__(self, image, crop, rng):
        image[0, 0] += 1
        return super().__call__(image, crop, rng)


@pytest.mark.parametrize(
    ("counterexample", "message"),
    [
        (Global, "drew from a global generator"),
        (Reading, "gives another crop"),
        (Counting, "gives another crop"),
        (Writing, "changed the image"),
        (Broken, r"returned \(3, 32, 32\) torch\.float32"),
    ],
)
def test_check_augmentation_refuses_counterexamples(counterexample: type[Trivial], message: str) -> None:
    with pytest.raises(ConformanceError, match=message):
        check_augmentation(counterexample, TrivialConfig(use="foo.trivial"))
