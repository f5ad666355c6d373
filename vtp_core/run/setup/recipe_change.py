"""Whether a run may resume with a recipe that changed since its checkpoint was written. Imports no torch."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from vtp_core.errors import CheckpointError, UsageError
from vtp_core.plugins import Plugins
from vtp_core.recipe.flat import flatten
from vtp_core.recipe.history import update_recipe
from vtp_core.recipe.tables.recipe import Recipe
from vtp_core.training.saving.manifest import Manifest, published, read_manifest

FREE_KEYS = (
    "run.out", "run.device", "run.threads", "run.log_every", "run.checkpoint_every", "run.keep_checkpoints",
    "run.microbatch_rows", "run.max_skipped_steps", "run.stall_seconds", "run.audit_gradients",
    "run.deterministic", "parallel.*", "data.workers", "data.prefetch", "data.max_bad_fraction",
    "kernels.*", "evaluate.*", "evaluators.*", "callbacks.*",
)  # fmt: skip
"""Keys that do not change what is trained: they may differ between two starts of a run."""

_ABSENT = object()


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two resolved recipes, apart from `FREE_KEYS`.

    Returns:
        Lines such as ``optimizer.lr: 0.001 -> 0.002``, by key.
    """
    before, after = flatten(old), flatten(new)
    lines = []
    for key in sorted(before.keys() | after.keys()):
        values = before.get(key, _ABSENT), after.get(key, _ABSENT)
        free = any(fnmatchcase(key, pattern) or f"{key}.*" == pattern for pattern in FREE_KEYS)
        # A key without a value may be left out.
        if before.get(key) != after.get(key) and not free:
            lines.append(f"{key}: {_show(values[0])} -> {_show(values[1])}")
    return lines


def check_newest(
    checkpoints: Path, recipe: Recipe, plugins: Plugins, allow_change: bool = False
) -> list[str]:
    """`check_resume` for the newest checkpoint by its manifest alone, before anything is loaded.

    Returns:
        What changed; nothing if no manifest can be read.
    """
    for path in published(checkpoints):
        try:
            manifest = read_manifest(path)
        except CheckpointError:
            continue
        if manifest.finite:
            return check_resume(path, manifest, recipe, plugins, allow_change)
    return []


def check_resume(
    path: Path, manifest: Manifest, recipe: Recipe, plugins: Plugins, allow_change: bool = False
) -> list[str]:
    """Whether a run may go on from a checkpoint.

    Returns:
        What changed in the recipe, one line a key.

    Raises:
        UsageError: The recipe has fewer steps than were made.
        CheckpointError: The recipe changed and `allow_change` is off.
    """
    if manifest.step > recipe.run.steps:
        raise UsageError(
            f"{path}: {manifest.step} steps are made already, run.steps is {recipe.run.steps}; "
            "raise it, or choose another folder with --out FOLDER"
        )
    data = recipe.model_dump(mode="json", by_alias=True)
    return check_recipe(path, manifest, data, plugins, allow_change)


def check_recipe(
    folder: Path,
    manifest: Manifest,
    recipe: Mapping[str, Any],
    plugins: Plugins,
    allow_change: bool = False,
) -> list[str]:
    """Compares a checkpoint's recipe with the present one.

    Args:
        folder: The checkpoint, for the message.
        manifest: Its manifest.
        recipe: The present resolved recipe as JSON data (``recipe.model_dump(mode="json", by_alias=True)``).
        plugins: Where components say what their keys were called before.
        allow_change: Whether to resume despite a change.

    Returns:
        What changed, one line a key.

    Raises:
        CheckpointError: Something changed and `allow_change` is off; says what.
    """
    before = copy.deepcopy(dict(manifest.recipe))
    update_recipe(before, plugins)
    lines = changed_keys(before, json.loads(json.dumps(recipe)))
    if lines and not allow_change:
        more = f"; and {len(lines) - 8} more" if len(lines) > 8 else ""
        raise CheckpointError(
            f"{folder}: was written with another recipe ({'; '.join(lines[:8])}{more}): "
            f"go on with its own (vtp run {folder.parent.parent} --resume), repeat the -s values of the "
            "first start, undo the change, choose another folder with --out, or resume with --allow-change"
        )
    return lines


def _show(value: object) -> str:
    return "(absent)" if value is _ABSENT else json.dumps(value)
