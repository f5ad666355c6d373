"""The artefact of a run: its config from the recipe, its weights from a checkpoint."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import torch

import vtp_core
from vtp_core.artefact.assembly import assemble, load_training_state, teacher_modules, training_modules
from vtp_core.artefact.config import ArtefactConfig, Head
from vtp_core.config import ComponentConfig
from vtp_core.objective import Objective
from vtp_core.plugins import Plugins
from vtp_core.recipe import Recipe
from vtp_core.tokenizer import Tokenizer
from vtp_core.view import sides


def artefact_config(
    recipe: Recipe,
    plugins: Plugins,
    *,
    step: int | None = None,
    weights: Literal["student", "teacher"] = "student",
) -> ArtefactConfig:
    """The config of a run's artefact. The image size is that of the recipe's largest view.

    Args:
        recipe: The run's recipe.
        plugins: Where its objectives are looked up, for their exports.
        step: Training steps done.
        weights: Whether the student or the teacher is saved with it.
    """
    heads = {}
    for name, table in recipe.objectives.items():
        objective: type[Objective] = plugins.find("objective", table.use).load_target()
        if objective.exports:
            heads[name] = Head(
                objective=_plain(table),
                exports=dict(objective.exports),
                weights="teacher" if objective.exports_teacher else weights,
            )
    sizes = [view.size for view in recipe.views.values()]
    return ArtefactConfig(
        vtp_version=vtp_core.__version__,
        recipe=recipe.name,
        step=step,
        weights=weights,
        encoder=_plain(recipe.encoder),
        bottleneck=_plain(recipe.bottleneck),
        decoder=_plain(recipe.decoder),
        heads=heads,
        image_size=max(sizes, key=lambda size: math.prod(sides(size))),
    )


def tokenizer_from_checkpoint(
    checkpoint: Path,
    recipe: Recipe,
    plugins: Plugins,
    *,
    step: int | None = None,
    weights: Literal["student", "teacher"] = "student",
) -> tuple[Tokenizer, list[str]]:
    """The tokenizer in a checkpoint of a run.

    Args:
        checkpoint: Folder of one checkpoint.
        recipe: The recipe of the run.
        plugins: Where components are looked up.
        step: Training steps done.
        weights: Whether to take the student or the teacher.

    Returns:
        The tokenizer, and the networks for which a teacher was asked and none exists.

    Raises:
        CheckpointError: It belongs to another recipe or can't be read.
    """
    from vtp_core.training.saving.checkpoint import load_available

    tokenizer = assemble(artefact_config(recipe, plugins, step=step, weights=weights), plugins)
    averages = teacher_modules(tokenizer, weights)
    state = {
        f"{prefix}{name}.{key}": torch.empty_like(value)
        for name, module in training_modules(tokenizer).items()
        for prefix in (("", "ema.") if name in averages else ("",))
        for key, value in module.state_dict().items()
    }
    loaded, _, _ = load_available(checkpoint, state)
    return tokenizer, load_training_state(tokenizer, {name: state[name] for name in loaded}, weights)


def newest_tokenizer(
    path: Path, recipe: Recipe, plugins: Plugins, weights: Literal["student", "teacher"] = "student"
) -> tuple[Tokenizer, list[str], str]:
    """The tokenizer of the checkpoint that `vtp_core.training.saving.folder.find_latest` finds.

    Args:
        path: A run folder, or one of its checkpoints, such as ``RUN/checkpoints/best``.
        recipe: The recipe of the run.
        plugins: Where components are looked up.
        weights: Whether to take the student or the teacher.

    Returns:
        As `tokenizer_from_checkpoint`, and the checkpoint's name.
    """
    from vtp_core.training.saving.folder import find_latest

    found = find_latest(path)
    model, without = tokenizer_from_checkpoint(
        found.path, recipe, plugins, step=found.manifest.step, weights=weights
    )
    return model, without, found.path.name


def _plain(table: ComponentConfig) -> dict[str, object]:
    return table.model_dump(mode="json", by_alias=True)
