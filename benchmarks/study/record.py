"""The record of one run: a small JSON that tables, plots and verdicts are made from."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.study.arm import Run
from vtp_core.atomic import write_json
from vtp_core.run.records import RunFolder

KEPT = ("value", "baseline", "baseline_name", "unit", "higher_is_better", "protocol")
"""What a record keeps of a metric in ``eval.json``."""


def training_cost(folder: Path, plugins: Sequence[Path] = ()) -> dict[str, int]:
    """What a run's training takes by its ``resolved.toml``: `steps`, `flops_per_step`, `flops`, `parameters`.

    FLOPs are counted as ``vtp plan`` does, with every objective active at every step.
    """
    from vtp_core.plugins import load_plugins
    from vtp_core.recipe import load_recipe
    from vtp_plugins.plan.plan import make_plan

    loaded = load_plugins(plugins)
    recipe = load_recipe(RunFolder(folder).recipe, plugins=loaded)
    plan = make_plan(recipe, loaded)
    return {
        "steps": recipe.run.steps,
        "flops_per_step": plan.flops,
        "flops": plan.flops * recipe.run.steps,
        "parameters": sum(owner.parameters for owner in plan.sizes.owners),
    }


def make_record(
    run: Run,
    study: str,
    data: str,
    folder: Path,
    sessions: Sequence[Mapping[str, float]],
    plugins: Sequence[Path] = (),
) -> dict[str, Any]:
    """What a finished run showed.

    Args:
        run: The run.
        study: Name of the study.
        data: Name of the data.
        folder: Its folder, with ``eval.json``, ``metrics.jsonl`` and ``resolved.toml``.
        sessions: `cpu_seconds` and `wall_seconds` of each start.
        plugins: Files of plugins that its recipe needs.

    Returns:
        JSON data.
    """
    import torch

    files = RunFolder(folder)
    metrics = json.loads(files.evaluation.read_text())
    return {
        "study": study,
        "run": run.name,
        "arm": run.arm.name,
        "seed": run.seed,
        "recipe": run.arm.recipe.name,
        "overrides": list(run.overrides),
        "settings": run.digest(),
        "data": data,
        **training_cost(folder, plugins),
        "cpu_seconds": round(sum(each["cpu_seconds"] for each in sessions), 1),
        "sessions": len(sessions),
        "torch": torch.__version__,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "metrics": {
            name: {key: entry[key] for key in KEPT if key in entry} for name, entry in metrics.items()
        },
        "training": _last(files.read_steps()),
    }


def _last(metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Losses and what objectives report at the last logged step."""
    return {name: value for name, value in metrics[-1].items() if name.startswith(("loss/", "report/"))}


def write_record(record: Mapping[str, Any], path: Path) -> None:
    """Writes a record at once or not at all: a file that is there is a run that is done."""
    write_json(path, record)


def read_record(path: Path) -> dict[str, Any]:
    """Reads one."""
    record: dict[str, Any] = json.loads(path.read_text())
    return record
