"""Folders of small published TiToks, from the fixtures of tests/data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

DATA = Path(__file__).parents[2] / "data"
KINDS = ("legacy", "vq", "vae")


def fixture(kind: str) -> Path:
    return DATA / f"titok_tiny_{kind}"


def config_of(kind: str) -> dict[str, Any]:
    """The fixture's configuration; its size has none of the owner's names, so its heads are stated."""
    config = json.loads((fixture(kind) / "config.json").read_text())
    assert config["_tiny"]["vit_size_table_row_tiny"]["num_heads"] == 4
    config["model"]["vq_model"] |= {"vit_enc_num_heads": 4, "vit_dec_num_heads": 4}
    return config


def written(
    folder: Path,
    kind: str,
    change: Callable[[dict[str, Any], dict[str, Tensor]], object] = lambda config, state: None,
) -> Path:
    """A folder as the owner publishes them, after a change of its configuration and tensors."""
    config, state = config_of(kind), load_file(fixture(kind) / "model.safetensors")
    change(config, state)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(state, folder / "model.safetensors")
    return folder
