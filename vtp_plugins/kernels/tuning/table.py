"""Measured times as text tables and JSON data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from vtp_core.cli.output import table
from vtp_plugins.kernels.tuning.problem import CHOICES, build, candidates
from vtp_plugins.kernels.tuning.session import Measured
from vtp_plugins.kernels.tuning.shapes import SHAPES

TORCH = {"attention": "sdpa", "nearest_code": "reference"}
"""Operator -> torch's own implementation, with which the others are compared."""


def tables(measured: Sequence[Measured]) -> Iterator[str]:
    """One table per operator: milliseconds of each implementation, the fastest first."""
    for operator in CHOICES:
        rows: list[tuple[str, ...]] = [(operator, "", "forward ms", "step ms", "against torch's own")]
        for it in measured:
            if it.operator == operator:
                rows += _rows(it)
        if len(rows) > 1:
            yield table(rows)


def _rows(it: Measured) -> Iterator[tuple[str, ...]]:
    shape = str(SHAPES[it.index])
    if it.skipped is not None:
        yield shape, "-", "", "", it.skipped
    own = it.seconds.get(TORCH[it.operator])
    others = [name for name in it.seconds if name not in it.implementations]
    for name in (*it.order, *others):
        parts = it.seconds[name]
        forward = f"{parts['forward'] * 1e3:.3f}" if "forward" in parts else ""
        speed = f"{own['step'] / parts['step']:.2f} x" if own else ""
        label = name if name in it.implementations else f"({name})"
        yield shape, label, forward, f"{parts['step'] * 1e3:.3f}", speed
    for name, reason in it.failed.items():
        yield shape, name, "", "", f"left out: {reason}"
    for name, reason in it.refused.items():
        yield shape, name, "", "", reason


def otherwise(measured: Sequence[Measured], device: torch.device) -> list[str]:
    """Shapes for which ``auto`` takes another implementation than the fastest, by its present rule."""
    lines = []
    for it in measured:
        if it.skipped is not None or not it.order:
            continue
        case = build(SHAPES[it.index], device).case
        picked = CHOICES[it.operator](tuple(candidates(it.operator, device))).pick(case).name
        if picked != it.order[0]:
            lines.append(f"{it.operator}, {SHAPES[it.index]}: auto takes {picked}, {it.order[0]} was faster")
    return lines


def as_data(measured: Sequence[Measured]) -> list[Mapping[str, Any]]:
    """The same as JSON data."""
    return [
        {
            "operator": it.operator,
            "shape": str(SHAPES[it.index]),
            "seconds": it.seconds,
            "implementations": it.order,
            "attributes": it.attributes,
            "work": it.work,
            "failed": it.failed,
            "refused": it.refused,
            "skipped": it.skipped,
        }
        for it in measured
    ]
