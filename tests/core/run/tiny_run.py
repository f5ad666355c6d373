"""A recipe that trains in half a second, and the command line to run it in this process or another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from click.testing import CliRunner, Result

from vtp_core.cli.main import main
from vtp_core.run.records import RunFolder
from vtp_core.training.saving.checkpoint import find_latest, load
from vtp_core.training.saving.safe_reader import SafeReader

FAULTY = Path(__file__).with_name("faulty.py")
RECIPE = """\
schema = 1
name = "tiny"

[run]
steps = 6
seed = 3
log_every = 1
threads = 1

[data.source]
use = "samples"
split = "val"

[views.image]
rows = 8
size = 16
augment = "clip"

[views.rec]
rows = 4
size = 16
augment = "crop"

[encoder]
use = "vit"
patch = 8
width = 32
depth = 1
heads = 2

[bottleneck]
use = "linear"
channels = 4

[decoder]
use = "vit"
width = 32
depth = 1
heads = 2

[objectives.clip]
use = "clip"
view = "image"
width = 16
depth = 1
heads = 2
context = 16

[objectives.l1]
use = "l1"
view = "rec"

[optimizer]
lr = { kind = "cosine", start = 1e-3, end = 1e-5, warmup = 2 }

[ema]
networks = ["tokenizer.decoder"]

[evaluate]
limit = 4
"""
UNREPEATABLE = ("rows_per_s", "memory_mib")
"""What two runs of the same numbers may log differently."""


def arguments(
    folder: Path, *sets: str, resume: bool = False, recipe: str = RECIPE, plugin: Path = FAULTY
) -> list[str]:
    """``vtp run`` of the tiny recipe into `folder`/run."""
    path = folder / "tiny.toml"
    if not path.is_file() or path.read_text() != recipe:
        path.write_text(recipe)
    chosen = [part for value in (f"run.out={folder / 'run'}", *sets) for part in ("-s", value)]
    return ["run", str(path), "--plugin", str(plugin), *chosen, *(["--resume"] if resume else [])]


def vtp(folder: Path, *sets: str, options: tuple[str, ...] = (), **more: Any) -> Result:
    """Runs it in this process."""
    return CliRunner().invoke(main, [*arguments(folder, *sets, **more), *options])


def start(folder: Path, *sets: str, options: tuple[str, ...] = (), **more: Any) -> subprocess.Popen:
    """Starts it as a process of its own."""
    called = arguments(folder, *sets, **more)
    command = [sys.executable, "-m", "vtp_core", *called, *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of its metrics, without what can't repeat itself."""
    lines = RunFolder(folder / "run").read_metrics()
    return [{key: value for key, value in line.items() if key not in UNREPEATABLE} for line in lines]


def state(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of its newest checkpoint."""
    path = find_latest(folder / "run").path
    stored = SafeReader(path).read_metadata().state_dict_metadata
    tensors = {name: torch.zeros(entry.size, dtype=entry.properties.dtype) for name, entry in stored.items()}
    load(path, tensors)
    return tensors


def assert_same_bits(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    """Names, types and every bit are the same."""
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert tensor.dtype == right[name].dtype
        assert torch.equal(tensor, right[name]), name


def one_line(result: Result) -> str:
    """The error of a run: the last line on standard error, and the only one about it."""
    lines = result.stderr.strip().splitlines()
    assert sum("error" in line for line in lines) == 1, result.stderr
    assert "Traceback" not in result.output
    return lines[-1]


def last_checkpoint(folder: Path) -> dict[str, Any]:
    """The manifest of the newest checkpoint."""
    data: dict[str, Any] = json.loads((find_latest(folder / "run").path / "manifest.json").read_text())
    return data
