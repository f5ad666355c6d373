"""One flipped bit in a checkpoint, its manifest or an artefact: refused by name, or it changes nothing."""

from __future__ import annotations

import dataclasses
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.core.run.tiny_run import vtp
from vtp_core import load
from vtp_core.errors import VtpError
from vtp_core.plugins import Plugins, load_plugins
from vtp_core.training.saving.checkpoint import find_latest, load_available
from vtp_core.training.saving.manifest import Manifest
from vtp_core.training.saving.safe_reader import SafeReader

FLIPS = 256
Content = tuple[object, dict[str, Tensor]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    assert vtp(folder, "run.steps=1").exit_code == 0
    return folder / "run"


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return load_plugins()


def read_checkpoint(path: Path, plugins: Plugins) -> Content:
    manifest: Manifest = find_latest(path).manifest
    stored = SafeReader(path).read_tensors()
    state = {name: torch.zeros(entry.size, dtype=entry.properties.dtype) for name, entry in stored.items()}
    load_available(path, state)
    return dataclasses.asdict(manifest), state


def read_tokenizer(path: Path, plugins: Plugins) -> Content:
    tokenizer = load(path, plugins=plugins)
    assert tokenizer.config is not None
    return tokenizer.config.model_dump(), dict(tokenizer.state_dict())


def check_flips(
    folder: Path, names: list[str], read: Callable[[Path, Plugins], Content], plugins: Plugins
) -> Counter[str]:
    """Flips bits, each file in turn, and reads the folder after each flip."""
    rng = random.Random(0)
    facts, tensors = read(folder, plugins)
    outcomes: Counter[str] = Counter()
    for number in range(FLIPS):
        path = folder / names[number % len(names)]
        good = path.read_bytes()
        bad = bytearray(good)
        at, bit = rng.randrange(len(bad)), rng.randrange(8)
        bad[at] ^= 1 << bit
        path.write_bytes(bad)
        where = f"{path.name}, byte {at}, bit {bit}"
        try:
            found, values = read(folder, plugins)
        except VtpError as error:
            assert str(folder) in str(error) or path.name in str(error), f"{where}: {error}"
            outcomes["refused"] += 1
        else:
            assert found == facts and values.keys() == tensors.keys(), where
            assert all(torch.equal(value, tensors[name]) for name, value in values.items()), where
            outcomes["changed nothing"] += 1
        path.write_bytes(good)
    assert outcomes["refused"] > 0
    return outcomes


@pytest.mark.slow
def test_flips_of_a_checkpoint(whole: Path, tmp_path: Path, plugins: Plugins):
    path = Path(shutil.copytree(next((whole / "checkpoints").glob("step-*")), tmp_path / "checkpoint"))
    assert check_flips(path, [".metadata", "__0_0.distcp"], read_checkpoint, plugins)["refused"] == FLIPS


@pytest.mark.slow
def test_flips_of_a_manifest(whole: Path, tmp_path: Path, plugins: Plugins):
    path = Path(shutil.copytree(next((whole / "checkpoints").glob("step-*")), tmp_path / "checkpoint"))
    check_flips(path, ["manifest.json"], read_checkpoint, plugins)


@pytest.mark.slow
def test_flips_of_an_artefact(whole: Path, tmp_path: Path, plugins: Plugins):
    path = Path(shutil.copytree(whole / "tokenizer", tmp_path / "tokenizer"))
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.name != "README.md")
    check_flips(path, [file.relative_to(path).as_posix() for file in files], read_tokenizer, plugins)
