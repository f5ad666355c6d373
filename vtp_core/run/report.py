"""Writes the report of a run folder. Imports torch only if reconstructions are to be made."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import replace
from pathlib import Path

from vtp_core.atomic import write_text
from vtp_core.data.opening import Sources
from vtp_core.errors import VtpError
from vtp_core.evaluation.progress import Show, silent
from vtp_core.plugins import Plugins, load_plugins
from vtp_core.plugins.component import one_line
from vtp_core.recipe import load_recipe
from vtp_core.report.page import render
from vtp_core.run.records import RunFolder

_log = logging.getLogger(__name__)

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

    The reconstructions are made from the run's artefact and held-out set, or some training images if there is
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
    problem = refresh_gallery(folder, plugins, sources, show)
    run = folder.read()
    if problem:
        missing = f"the reconstructions could not be made: {problem}"
        run = replace(run, missing=[*run.missing, missing])
    path = Path(output) if output is not None else folder.report
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, render(run))
    return path


def refresh_gallery(
    folder: RunFolder, plugins: Plugins | None, sources: Sources | None, show: Show = silent
) -> str | None:
    """Makes the reconstructions of a run, if it has an artefact and they are not of its weights.

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
        plugins = plugins if plugins is not None else load_plugins()
        from vtp_core.artefact.loading import load
        from vtp_core.evaluation.opening import open_recipe_sets, open_set
        from vtp_core.report.gallery import write_gallery

        recipe = load_recipe(folder.recipe, plugins=plugins)
        sources = sources or Sources(plugins, recipe.data.decode)
        held_out, _ = open_recipe_sets(recipe, sources)
        limit = min(recipe.evaluate.limit or TRAINING_IMAGES, TRAINING_IMAGES)
        data = held_out or open_set(recipe.data.source, sources, limit, skip_bad=True)
        write_gallery(
            load(folder.tokenizer, plugins=plugins),
            data,
            folder.samples,
            rows=recipe.evaluate.rows,
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


def _made_from(gallery: Path) -> str | None:
    try:
        if not gallery.is_file():
            return None
        return str(json.loads(gallery.read_text(encoding="utf-8"))["made_from"])
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return None
