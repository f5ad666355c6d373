"""Critics beside an artefact, for a later stage that goes on with them; loading a tokenizer reads none.

``critics/<objective>/`` holds ``model.safetensors``, all that a checkpoint has of an adversarial objective,
and ``config.json``, its table.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vtp_core.artefact.sums import check_sums
from vtp_core.artefact.weights import read_header, read_weights, write_weights
from vtp_core.errors import UsageError
from vtp_core.objective import AdversarialObjective
from vtp_core.plugins import Plugins
from vtp_core.recipe import Recipe

FOLDER, WEIGHTS = "critics", "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class Critic:
    """What an adversarial objective has trained.

    Attributes:
        objective: Its table.
        state: Name below the objective, such as ``critic.head.weight`` -> tensor.
    """

    objective: Mapping[str, Any]
    state: Mapping[str, Tensor]


def critics_of(checkpoint: Path, recipe: Recipe, plugins: Plugins) -> dict[str, Critic]:
    """Objective -> its critic, of a checkpoint.

    Raises:
        CheckpointError: It can't be read.
        UsageError: The recipe trains no critic, or the checkpoint is of before there was one.
    """
    from vtp_core.training.saving.checkpoint import read_stored

    tables = {
        name: table
        for name, table in recipe.objectives.items()
        if issubclass(plugins.find("objective", table.use).load_target(), AdversarialObjective)
    }
    if not tables:
        raise UsageError(f"recipe {recipe.name}: trains no critic; leave `--with critics` out")
    critics = {}
    for name, table in tables.items():
        prefix = f"objectives.{name}."
        state = {key.removeprefix(prefix): value for key, value in read_stored(checkpoint, prefix).items()}
        if not state:
            raise UsageError(f"{checkpoint}: has no critic of objective {name}")
        critics[name] = Critic(objective=table.model_dump(mode="json", by_alias=True), state=state)
    return critics


def write_critics(folder: Path, critics: Mapping[str, Critic]) -> None:
    """Writes them into the folder of an artefact."""
    for name, critic in critics.items():
        own = folder / FOLDER / name
        own.mkdir(parents=True)
        write_weights(own / WEIGHTS, critic.state)
        text = json.dumps({"objective": critic.objective}, indent=2) + "\n"
        (own / "config.json").write_text(text, encoding="utf-8")


def read_critics(folder: Path) -> dict[str, Tensor]:
    """Tensors of all critics of an artefact, named as in a checkpoint: ``objectives.<name>.*``.

    Raises:
        CheckpointError: A file is damaged or differs from its hash.
    """
    names = [
        path.parent.name
        for path in sorted(folder.glob(f"{FOLDER}/*/{WEIGHTS}"))
        if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", path.parent.name)
    ]
    check_sums(folder, [f"{FOLDER}/{name}/{WEIGHTS}" for name in names])
    found: dict[str, Tensor] = {}
    for name in names:
        path = folder / FOLDER / name / WEIGHTS
        expected = {
            key: torch.empty(shape, dtype=dtype, device="meta")
            for key, (dtype, shape) in read_header(path).items()
        }
        found |= {f"objectives.{name}.{key}": value for key, value in read_weights(path, expected).items()}
    return found
