"""A run folder as two ranks leave it, with bad samples, a loose plugin and hostile captions."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.core.run.tiny_run import RECIPE, start

HOSTILE = "<script>alert(1)</script>\"'&{{ 7 * 7 }}"
TEMPLATE = HOSTILE.replace("{", "{{").replace("}", "}}")
IMAGES = f"use = \"image_folder\"\npath = \"@\"\ncaption = '''{TEMPLATE}'''"
BAD = 4
"""Images that can't be read, of 24."""
SETS = (
    "run.steps=12",
    "data.max_bad_fraction=0.9",
    "evaluate.limit=20",
    'evaluators={reconstruction={use="reconstruction"}}',
    'callbacks.slow={use="faulty.slow", seconds=0.0}',
)


def draw(folder: Path, count: int, bad: int = 0) -> Path:
    """A folder of random images, the first `bad` of them cut."""
    folder.mkdir()
    random = np.random.default_rng(count)
    for number in range(count):
        path = folder / f"{number:02d}.png"
        Image.fromarray(random.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(path)
        if number < bad:
            path.write_bytes(path.read_bytes()[:60])
    return folder


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder; not to be changed."""
    home = tmp_path_factory.mktemp("reported")
    data, held_out = draw(home / "data", 24, BAD), draw(home / "held_out", 20)
    recipe = RECIPE.replace('use = "samples"\nsplit = "val"', IMAGES.replace("@", str(data)))
    table = f"{{use = \"image_folder\", path = \"{held_out}\", caption = '''{TEMPLATE}'''}}"
    process = start(home, *SETS, f"evaluate.source={table}", recipe=recipe, options=("--nproc", "2"))
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    return home / "run"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of it to change."""
    return Path(shutil.copytree(finished, tmp_path / "run"))
