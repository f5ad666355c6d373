"""The norms of the decoder's gradients over a run, from its logged steps. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy

SKIPPED = 0.1
"""Share of a run's steps, at its start, that don't count: every run begins with large gradients."""

LATE_STEPS = 100
"""Last steps of a run, in which all arms have seen equally much and the second stage its critic in full."""


def gradient_norms(steps: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Median and 99th percentile of the decoder's gradient norm, before clipping, and their ratio.

    Args:
        steps: The logged steps of a run (`RunFolder.read_steps`), all of them.

    Returns:
        ``gradient_median``, ``gradient_p99`` and ``gradient_tail`` of all steps but the skipped first ones,
        and the same as ``late_gradient_*`` of the last `LATE_STEPS`, or of all if there are fewer.

    Raises:
        ValueError: There is no step, or one lacks a finite norm.
    """
    found = [step.get("grad_norm/decoder") for step in steps]
    if not found or None in found:
        raise ValueError("a step has no finite grad_norm/decoder, or there is no step")
    norms = numpy.asarray(found, dtype=numpy.float64)
    return {
        **_described("gradient", norms[int(SKIPPED * len(norms)) :]),
        **_described("late_gradient", norms[-LATE_STEPS:]),
    }


def _described(name: str, norms: numpy.ndarray) -> dict[str, float]:
    median, high = numpy.percentile(norms, [50, 99])
    return {f"{name}_median": float(median), f"{name}_p99": float(high), f"{name}_tail": float(high / median)}
