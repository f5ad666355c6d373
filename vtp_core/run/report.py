"""Writes the report of a run folder. Imports torch only if pictures are to be made."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vtp_core.atomic import write_text
from vtp_core.data.opening import Sources
from vtp_core.errors import VtpError
from vtp_core.evaluation.progress import Show, silent
from vtp_core.plugins import Plugins, load_plugins
from vtp_core.plugins.component import one_line
from vtp_core.recipe import load_recipe
from vtp_core.report.page import render
from vtp_core.report.run_data import GALLERY_VERSION
from vtp_core.run.records import RunFolder
from vtp_core.view import ViewSize

if TYPE_CHECKING:
    from vtp_core.report.references import Reference

_log = logging.getLogger(__name__)

SECONDS = 60.0
"""Largest time for the pass over images that the galleries choose from."""
ROWS = 16
"""Largest batch of that pass, so that a slow tokenizer ends it in time too."""
MOST_REFERENCES = 2
"""Tokenizers beside which reconstructions are shown."""
TRAINING_IMAGES = 256
"""Most training images that are reconstructed where none are held out."""


def build_report(
    run_folder: str | Path,
    output: str | Path | None = None,
    *,
    plugins: Plugins | None = None,
    sources: Sources | None = None,
    show: Show = silent,
) -> Path:
    """Writes the report of a run.

    The pictures are made from the run's artefact and held-out set, or some training images if there is
    none, unless its folder ``samples`` was made from the same weights.

    Args:
        run_folder: A folder that ``vtp run`` wrote; missing parts are named on the page.
        output: The file to write; None: ``report.html`` in the run folder.
        plugins: Where the artefact's components are looked up; None: the installed ones.
        sources: The run's sources, if this process has them open.
        show: Shows the progress.

    Returns:
        The file.

    Raises:
        UsageError: `run_folder` is no run folder.
    """
    folder = RunFolder(run_folder)
    plugins = plugins if plugins is not None else load_plugins()
    problem = refresh_gallery(folder, plugins, sources, show)
    run = folder.read()
    run = replace(run, chance=chance_lines(folder, plugins))
    if problem:
        missing = f"the reconstructions could not be made: {problem}"
        run = replace(run, missing=[*run.missing, missing])
    path = Path(output) if output is not None else folder.report
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, render(run))
    return path


def chance_lines(folder: RunFolder, plugins: Plugins) -> dict[str, float]:
    """Key of ``metrics.jsonl`` -> its value by chance, as the objectives of the run's recipe tell it.

    None of a recipe that can't be read by these plugins; the page shows its text all the same.
    """
    try:
        recipe = load_recipe(folder.recipe, plugins=plugins)
    except VtpError:
        return {}
    views = {
        name: ViewSize(rows=view.rows, masked=view.masks.probability if view.masks is not None else 0.0)
        for name, view in recipe.views.items()
    }
    return {
        f"loss/{name}/{term}": value
        for name, table in recipe.objectives.items()
        for term, value in table.chance(views, recipe.objectives).items()
    }


def refresh_gallery(
    folder: RunFolder, plugins: Plugins, sources: Sources | None, show: Show = silent
) -> str | None:
    """Makes the pictures of a run, if it has an artefact and they are not of its weights.

    Returns:
        Why it could not be done, or None.
    """
    weights = folder.tokenizer / "model.safetensors"
    if not weights.is_file() or not folder.exists():
        return None
    try:
        with weights.open("rb") as file:
            made_from = hashlib.file_digest(file, "sha256").hexdigest()
        if _made_from(folder.gallery) == made_from:
            return None
        import torch

        from vtp_core.artefact.loading import load
        from vtp_core.evaluation.opening import open_recipe_sets, open_set
        from vtp_core.report.gallery import write_gallery

        recipe = load_recipe(folder.recipe, plugins=plugins)
        sources = sources or Sources(plugins, recipe.data.decode)
        held_out, _ = open_recipe_sets(recipe, sources)
        limit = min(recipe.evaluate.limit or TRAINING_IMAGES, TRAINING_IMAGES)
        data = held_out or open_set(recipe.data.source, sources, limit, skip_bad=True)
        device = "cuda" if recipe.run.device != "cpu" and torch.cuda.is_available() else "cpu"
        write_gallery(
            load(folder.tokenizer, plugins=plugins).to(device),
            data,
            folder.samples,
            references=shipped_references(plugins, device),
            rows=min(recipe.evaluate.rows, ROWS),
            seconds=SECONDS,
            made_from=made_from,
            trained_on=held_out is None,
            show=show,
        )
    except VtpError as error:
        return " ".join(str(error).split())
    except Exception as error:  # of any kind: a folder that can't give images still gets its page
        _log.debug("reconstructions", exc_info=error)
        return one_line(error)
    return None


def shipped_references(plugins: Plugins, device: str) -> list[Reference]:
    """Tokenizers that ship with plugins and can reconstruct, at most `MOST_REFERENCES`.

    One that can't be loaded is left out with a warning: a reference must not cost a run its report.
    """
    from vtp_core.artefact.loading import load
    from vtp_core.report.references import TokenizerReference

    found: list[Reference] = []
    for component in plugins.components("tokenizer"):
        if len(found) == MOST_REFERENCES:
            break
        try:
            model = load(component.load_target()(), plugins=plugins).to(device)
        except VtpError as error:
            _log.warning("the report has no reference %s: %s", component.name, one_line(error))
            continue
        if "decode" in model.capabilities:
            found.append(TokenizerReference(component.name, model))
    return found


def _made_from(gallery: Path) -> str | None:
    """Hash of the weights that the pictures were made from; None for those of another version."""
    try:
        if not gallery.is_file():
            return None
        record = json.loads(gallery.read_text(encoding="utf-8"))
        return str(record["made_from"]) if record["version"] == GALLERY_VERSION else None
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return None
