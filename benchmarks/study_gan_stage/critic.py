"""How the critic did over a run, from its ``metrics.jsonl``. Imports no torch."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

ACCURACY, WEIGHT, EXPOSURE = "report/gan.critic/accuracy", "report/gan/d_weight", "report/gan/exposure"


def critic_course(log: Path) -> dict[str, float]:
    """What the decoder could learn from its critic.

    Args:
        log: A run's ``metrics.jsonl``.

    Returns:
        ``critic_accuracy`` and ``d_weight``, the adaptive weight: medians over the steps in which the
        decoder saw the critic. Nothing if there are none.
    """
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    seen = [line for line in lines if line.get(EXPOSURE, 0) > 0]
    if not seen:
        return {}
    return {
        name: statistics.median(line[key] for line in seen)
        for name, key in (("critic_accuracy", ACCURACY), ("d_weight", WEIGHT))
    }
