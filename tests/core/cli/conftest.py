"""Fixtures of the tests of commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.core.cli.small_tokenizer import RECIPE, make_home


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `make_home`."""
    root = tmp_path_factory.mktemp("home")
    make_home(root)
    return root


@pytest.fixture
def photos(home: Path) -> str:
    """Source of the images, as the command line takes it."""
    return f'{{ use = "image_folder", path = "{home / "photos"}" }}'


@pytest.fixture
def other_recipe(home: Path) -> Path:
    """A recipe that measures one evaluator, three images at a time, on two images of the samples."""
    text = RECIPE.format(root=home / "photos").partition("[evaluate]")[0]
    text += '[evaluate]\nsource = { use = "samples", split = "val" }\nlimit = 2\nrows = 1\n'
    (home / "other.toml").write_text(f'{text}[evaluators.structure]\nuse = "reconstruction"\n')
    return home / "other.toml"
