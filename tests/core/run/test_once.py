"""A source is opened once a process, and a checkpoint is hashed once, however many ranks there are."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest
import torch

from tests.core.run.tiny_run import RECIPE, start, vtp
from vtp_core.data.opening import Sources
from vtp_core.plugins import load_plugins
from vtp_core.recipe import load_recipe
from vtp_core.recipe.tables.data import DecodeLimits
from vtp_core.run.train import train
from vtp_core.testing.ranks import run_processes
from vtp_core.training.ranks.world import World
from vtp_core.training.saving import manifest

pytestmark = pytest.mark.slow

COUNTING = Path(__file__).with_name("counting.py")


def counting_recipe(folder: Path) -> str:
    """The tiny recipe without captions, on a training and a held-out source that log each opening."""
    text = RECIPE.replace('use = "samples"\nsplit = "val"', f'use = "counting.images"\nlog = "{folder}/log"')
    start, end = text.index("[objectives.clip]"), text.index("[objectives.l1]")
    image = text.index("[views.image]"), text.index("[views.rec]")
    text = text[:start] + text[end:]
    text = text[: image[0]] + text[image[1] :]
    return (
        text
        + f"""every = 1
source = {{ use = "counting.images", log = "{folder}/log", name = "held_out" }}

[evaluators.reconstruction]
use = "reconstruction"
"""
    )


def openings(folder: Path) -> Counter[str]:
    """Names of the opened sources, by process."""
    return Counter((folder / "log").read_text().splitlines())


@pytest.mark.parametrize("workers", [0, 2])
def test_each_source_is_opened_once_for_training_evaluation_statistics_and_report(tmp_path, workers):
    sets = ("run.steps=3", f"data.workers={workers}", "data.decode.min_side=3")
    options = {"recipe": counting_recipe(tmp_path), "plugin": COUNTING}
    result = vtp(tmp_path, *sets, **options)
    assert result.exit_code == 0, result.output
    assert openings(tmp_path) == {f"{os.getpid()} train 3": 1, f"{os.getpid()} held_out 3": 1}
    assert json.loads((tmp_path / "run/samples/samples.json").read_text())["held_out"].endswith("16")


@pytest.mark.distributed
def test_two_ranks_open_each_source_once(tmp_path):
    process = start(
        tmp_path,
        "run.steps=3",
        recipe=counting_recipe(tmp_path),
        plugin=COUNTING,
        options=("--nproc", "2"),
    )
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    found = openings(tmp_path)
    assert len(found) == 4 and set(found.values()) == {1}
    assert len({line.split()[0] for line in found}) == 2


def test_sources_are_shared_by_equal_tables_alone(tmp_path):
    plugins = load_plugins([COUNTING])
    table = plugins.find("source", "counting.images").load_config()
    sources = Sources(plugins, DecodeLimits(min_side=5))
    first = sources.open(table(use="counting.images", log=tmp_path / "log"))
    assert sources.open(table(use="counting.images", log=tmp_path / "log", name="train")) is first
    assert sources.open(table(use="counting.images", log=tmp_path / "log", name="other")) is not first
    assert openings(tmp_path) == {f"{os.getpid()} {name} 5": 1 for name in ("train", "other")}


def hashed(patch, log: list[str]) -> None:
    """Notes the name of each file whose hash is compared."""
    original = manifest.hash_file

    def hash_file(path: Path) -> str:
        log.append(path.name)
        return original(path)

    patch("vtp_core.training.saving.manifest.hash_file", hash_file)


def test_a_resume_hashes_each_file_once(tmp_path, monkeypatch):
    assert vtp(tmp_path).exit_code == 0
    (folder,) = (tmp_path / "run/checkpoints").glob("step-*")
    files = json.loads((folder / "manifest.json").read_text())["files"]
    log: list[str] = []
    hashed(monkeypatch.setattr, log)
    assert vtp(tmp_path, resume=True).exit_code == 0
    assert sorted(log) == sorted(files)


def resume(world: World, folder: Path) -> dict[str, torch.Tensor]:
    """Resumes a finished run on this rank; file -> how often this rank hashed it."""
    os.environ["WORLD_SIZE"] = str(world.size)  # as torchrun sets it
    log: list[str] = []
    hashed(pytest.MonkeyPatch().setattr, log)
    plugins = load_plugins()
    recipe = load_recipe(folder / "run/resolved.toml", [f"run.out={folder / 'run'}"], plugins=plugins)
    train(recipe, plugins, resume=True)
    return {name: torch.tensor(count) for name, count in Counter(log).items()}


@pytest.mark.distributed
def test_two_ranks_that_resume_hash_each_file_once_together(tmp_path):
    assert vtp(tmp_path).exit_code == 0
    (folder,) = (tmp_path / "run/checkpoints").glob("step-*")
    files = json.loads((folder / "manifest.json").read_text())["files"]
    found = run_processes(2, resume, tmp_path)
    assert all(found), "a rank had nothing to do"
    assert sorted(name for rank in found for name in rank) == sorted(files)
    assert all(count == 1 for rank in found for count in rank.values())
