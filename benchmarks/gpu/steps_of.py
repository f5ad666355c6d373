"""Runs `benchmarks.gpu.steps` in a process of its own and describes what it found. Imports no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.gpu.context import Context, PartFailed
from benchmarks.gpu.roofline import flop_share


def step(
    context: Context, name: str, recipe: str, rows: Mapping[str, int], sets: Sequence[str]
) -> dict[str, Any]:
    """Makes steps of a recipe on drawn rows.

    Args:
        context: The part's.
        name: For the file of results.
        recipe: Path of the recipe.
        rows: View -> rows; the recipe's where none are given.
        sets: ``key=value`` as on the command line.

    Raises:
        PartFailed: It failed, or a loss is not finite.
    """
    file = context.folder / f"{name}.json"
    file.unlink(missing_ok=True)
    order = {
        "recipe": recipe, "device": context.device, "rows": dict(rows), "sets": list(sets), "steps": 2,
        "file": str(file),
    }  # fmt: skip
    context.python("-m", "benchmarks.gpu.steps", json.dumps(order))
    found: dict[str, Any] = json.loads(file.read_text())
    for losses in found["losses"]:
        if bad := [key for key, value in losses.items() if not math.isfinite(value)]:
            raise PartFailed(f"{name}: {', '.join(bad)} is not finite")
    return found


def describe(context: Context, found: Mapping[str, Any]) -> list[str]:
    """Lines of markdown on what `step` returned."""
    times = ", ".join(f"{seconds:.3f}" for seconds in found["seconds"])
    last = found["losses"][-1]
    rows = ", ".join(f"{view} {count}" for view, count in found["rows"].items())
    return [
        f"- Steps on drawn rows ({rows}) took {times} s; the first includes what is compiled and allocated.",
        f"- Last losses: {', '.join(f'{key} {value:.4f}' for key, value in last.items())}.",
        f"- {found['flop'] / 1e12:.2f} TFLOP a step by torch's counter: "
        f"{flop_share(context.facts, found['flop'], found['seconds'][-1])}.",
        f"- {found['parameters'] / 1e6:.0f} M trainable parameters; at most "
        f"{found['memory_bytes'] / 2**30:.1f} GiB; attention: {found['attention']}.",
    ]
