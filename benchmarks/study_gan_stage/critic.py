"""Accuracy and adaptive weight of the critic over a run, from its logged steps. Imports no torch."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

ACCURACY, WEIGHT, EXPOSURE = "report/gan.critic/accuracy", "report/gan/d_weight", "report/gan/exposure"


def critic_course(steps: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """What the decoder could learn from its critic.

    Args:
        steps: The logged steps of a run (`RunFolder.read_steps`).

    Returns:
        ``critic_accuracy`` and ``d_weight``, the adaptive weight: medians over the steps in which the
        decoder saw the critic. Nothing if there are none.
    """
    seen = [step for step in steps if step.get(EXPOSURE, 0) > 0]
    if not seen:
        return {}
    return {
        name: statistics.median(step[key] for step in seen)
        for name, key in (("critic_accuracy", ACCURACY), ("d_weight", WEIGHT))
    }
