"""Runs `vtp kernels tune` and puts its times beside the limits of the device."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.gpu.context import Context, PartFailed
from benchmarks.gpu.report import table
from benchmarks.gpu.roofline import limit_share

SUMMARY = "vtp kernels tune: every implementation of both operators against torch's, at the recipes' shapes"
LIMIT = 100.0
KEPT = 45.0
FINISH = 12.0
"""Seconds kept for the end of the shape at hand and for writing."""

TORCH = {"attention": "sdpa", "nearest_code": "reference"}


def run(context: Context) -> list[str]:
    """One table: times of a training step, against torch's own, and the share of the limit.

    Raises:
        PartFailed: Nothing was measured, or an implementation disagreed with the reference.
    """
    file = context.folder / "tune.json"
    file.unlink(missing_ok=True)
    seconds = f"{max(1.0, context.left - FINISH):.0f}"
    rounds = "2" if context.small else "5"
    context.vtp(
        "kernels", "tune", "--device", context.device, "--rounds", rounds, "--seconds", seconds,
        "--json", str(file),
    )  # fmt: skip
    measured = json.loads(file.read_text())["measured"]
    rows = [row for item in measured for row in _rows(item, context.facts)]
    header = ("operator", "shape", "implementation", "forward ms", "step ms", "against torch", "of the limit")
    lines = table(header, rows)
    lines += [
        "A step is forward and backward of attention, or one search. In brackets: for comparison, no "
        "implementation of the contract.",
        "",
    ]
    failed = [
        f"{item['operator']}, {item['shape']}: {name} {reason}"
        for item in measured
        for name, reason in item["failed"].items()
    ]
    lines += [f"- **left out** {line}" for line in failed]
    if failed:
        raise PartFailed(f"{len(failed)} failures of implementations, the first: {failed[0][:300]}", lines)
    return lines


def _rows(item: Mapping[str, Any], facts: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    operator, shape, seconds = item["operator"], item["shape"], item["seconds"]
    if item["skipped"]:
        yield operator, shape, "-", "", "", item["skipped"], ""
    own = seconds.get(TORCH[operator])
    mine = item["implementations"]
    for name in (*mine, *(name for name in seconds if name not in mine)):
        parts = seconds[name]
        yield (
            operator,
            shape,
            name if name in mine else f"({name})",
            f"{parts['forward'] * 1e3:.3f}" if "forward" in parts else "",
            f"{parts['step'] * 1e3:.3f}",
            f"{own['step'] / parts['step']:.2f} x" if own else "",
            limit_share(facts, item, parts["step"]),
        )
    for name, reason in item["refused"].items():
        yield operator, shape, name, "", "", f"not run: {reason}", ""
