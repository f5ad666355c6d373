"""Files of a small published UniTok, from the fixture of tests/data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

FIXTURE = Path(__file__).parents[2] / "data" / "unitok_tiny"

Change = Callable[[dict[str, Any], dict[str, Tensor]], object]


def args() -> dict[str, Any]:
    """The owner's arguments; this size is none of ViTamin's, so its heads are stated."""
    found: dict[str, Any] = json.loads((FIXTURE / "config.json").read_text())
    heads = found.pop("_tiny")["vitamin_tiny"]["stage3"]["num_heads"]
    return {**found, "num_heads": heads}


def checkpoint(path: Path, change: Change = lambda settings, state: None) -> Path:
    """The file as the owner publishes it, after a change of its arguments and tensors."""
    settings, state = args(), load_file(FIXTURE / "model.safetensors")
    change(settings, state)
    torch.save({"args": settings, "trainer": {"unitok": state}}, path)
    return path


def unpacked(folder: Path) -> Path:
    """The same without a pickle."""
    (folder / "config.json").write_text(json.dumps(args()))
    save_file(load_file(FIXTURE / "model.safetensors"), folder / "model.safetensors")
    return folder
