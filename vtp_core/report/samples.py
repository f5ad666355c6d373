"""Keeps the folder ``samples`` of a run in step with its artefact. Imports torch only if there is work."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from vtp_core.errors import VtpError
from vtp_core.plugins import Plugins, load_plugins


def refresh_gallery(run_folder: Path, plugins: Plugins | None) -> str | None:
    """Makes the reconstructions of a run, if it has an artefact and they are not of its weights.

    Args:
        run_folder: A run folder.
        plugins: Where components are looked up; None: the installed ones.

    Returns:
        Why it could not be done, or None.
    """
    weights, recipe_file = run_folder / "tokenizer" / "model.safetensors", run_folder / "resolved.toml"
    if not weights.is_file() or not recipe_file.is_file():
        return None
    with weights.open("rb") as file:
        made_from = hashlib.file_digest(file, "sha256").hexdigest()
    if _made_from(run_folder / "samples" / "samples.json") == made_from:
        return None
    from vtp_core.artefact.loading import load
    from vtp_core.evaluation.opening import open_recipe_sets
    from vtp_core.recipe import load_recipe
    from vtp_core.report.gallery import write_gallery

    try:
        plugins = plugins if plugins is not None else load_plugins()
        recipe = load_recipe(recipe_file, plugins=plugins)
        sets = open_recipe_sets(recipe, plugins)
        if sets is None:
            return "the recipe has no held-out data ([evaluate] source)"
        tokenizer = load(run_folder / "tokenizer", plugins=plugins)
        write_gallery(
            tokenizer, sets[0], run_folder / "samples", rows=recipe.evaluate.rows, made_from=made_from
        )
    except VtpError as error:
        return " ".join(str(error).split())
    return None


def _made_from(path: Path) -> str | None:
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["made_from"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
