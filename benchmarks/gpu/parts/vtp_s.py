"""Two steps of the recipe vtp_s: its real networks and crops, an eightieth of its rows, drawn data."""

from __future__ import annotations

from benchmarks.gpu.context import REPOSITORY, Context
from benchmarks.gpu.steps_of import describe, step

SUMMARY = "two steps of vtp_s: its networks and crops, 512, 128 and 64 rows of drawn data"
LIMIT = 90.0
KEPT = 40.0
ROWS = {"clip": 512, "ssl": 128, "rec": 64}
ENOUGH_GIB = 70.0
"""Memory of a device that holds all rows at once; below it they go through the networks in chunks."""


def run(context: Context) -> list[str]:
    """Losses, time and memory of the steps."""
    sets = ["parallel.shard=1", "parallel.world_size=1", "objectives.perceptual.weights=random"]
    rows, recipe = ROWS, REPOSITORY / "recipes/vtp_s.toml"
    if context.small:
        rows, recipe = {}, REPOSITORY / "recipes/smoke/vtp_s.toml"
    elif context.facts and context.facts["memory_gib"] < ENOUGH_GIB:
        sets.append("run.microbatch_rows=32")
    sets += [f"views.{view}.rows={count}" for view, count in rows.items()]
    found = step(context, "vtp_s", str(recipe), rows, sets)
    note = "Pixels, captions and masks are drawn; the perceptual network is untrained: no weights needed."
    return [note, "", *describe(context, found), *(f"- Changed for this: `{value}`." for value in sets)]
