"""Reference curves: what a recipe gave when it was measured, in a file that ships beside the recipes."""

from __future__ import annotations

import json
import math
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import vtp_core
from vtp_core.config import Table
from vtp_core.errors import UsageError
from vtp_core.evaluation.history import PREFIX
from vtp_core.recipe.shipped import PACKAGE
from vtp_core.report.run_data import RunData, is_number, table

FOLDER = "reference"
"""Of the files, beside the recipes: ``quickstart.json``."""
LOSS = "loss/"
POINTS = 100
"""Points of a curve of losses; more are averaged over neighbours."""


class Reference(Table):
    """A run in short."""

    recipe: dict[str, Any]
    """Its resolved recipe, without the folder."""
    vtp_version: str
    """Version of vtp-core that trained it."""
    metrics: list[dict[str, float]]
    """Losses and measurements by step."""
    evaluation: dict[str, dict[str, Any]]
    """Its last measurements, as in ``eval.json``."""


def make_reference(run: RunData) -> Reference:
    """The curves of a finished run.

    Raises:
        UsageError: Parts of the run are missing.
    """
    if run.missing or not run.evaluation:
        raise UsageError(f"reference: the run is not whole: {'; '.join(run.missing) or 'no measurements'}")
    losses = [
        {key: row[key] for key in row if key == "step" or key.startswith(LOSS)}
        for row in run.metrics
        if any(key.startswith(LOSS) for key in row)
    ]
    measured = [
        {key: row[key] for key in row if key == "step" or key.startswith(PREFIX)}
        for row in run.metrics
        if any(key.startswith(PREFIX) for key in row)
    ]
    width = max(1, math.ceil(len(losses) / POINTS))
    averaged = [_mean(losses[start : start + width]) for start in range(0, len(losses), width)]
    recipe = {**run.recipe, "run": {k: v for k, v in table(run.recipe.get("run")).items() if k != "out"}}
    return Reference(
        recipe=recipe,
        vtp_version=vtp_core.__version__,
        metrics=[*averaged, *measured],
        evaluation={key: dict(entry) for key, entry in run.evaluation.items()},
    )


def _mean(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Means of the losses; the step is that of the last row."""
    found = {"step": rows[-1]["step"]}
    for key in sorted({key for row in rows for key in row} - {*found}):
        values = [float(row[key]) for row in rows if is_number(row.get(key))]
        if values:
            found[key] = float(f"{sum(values) / len(values):.6g}")
    return found


def shipped_reference(recipe: str) -> tuple[str, RunData]:
    """Title and curves of the reference of a recipe.

    Args:
        recipe: Its name.

    Raises:
        UsageError: None ships for it, or its file is damaged.
    """
    known = sorted(path.stem for path in _folder().glob("*.json"))
    if recipe not in known:
        raise UsageError(
            f"--reference: none ships for recipe {recipe!r}; there are {', '.join(known) or 'none'}. "
            "To compare with a run of yours, name both: vtp report RUN OTHER"
        )
    try:
        read = Reference.model_validate(json.loads((_folder() / f"{recipe}.json").read_text("utf-8")))
    except (OSError, ValueError, ValidationError) as error:
        raise UsageError(f"--reference: the file of {recipe} is damaged ({error}); reinstall") from error
    run = RunData(
        name=recipe,
        recipe=read.recipe,
        metrics=read.metrics,
        evaluation=read.evaluation,
        images=Path(),
    )
    return f"reference ({read.vtp_version})", run


def _folder() -> Path:
    return Path(str(resources.files(PACKAGE))) / FOLDER
