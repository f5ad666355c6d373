"""How many training steps a proxy takes to a distance on the latents of each tokenizer."""

from __future__ import annotations

import math
from dataclasses import dataclass

from benchmarks.study.claim import Finding
from benchmarks.study.results import Results
from benchmarks.study_convergence.arms import DISTILLED, JOINT
from benchmarks.study_convergence.making import CURVE
from vtp_plugins.probe_gen.ranking import Reached, reached
from vtp_plugins.probe_gen.record import Point


@dataclass(frozen=True, kw_only=True)
class Seed:
    """What the curves of one seed say.

    Attributes:
        seed: The seed.
        level: The largest final kernel distance of the arms, which all reach.
        steps: Arm -> training steps to it.
    """

    seed: int
    level: float
    steps: dict[str, Reached]

    def ratio(self, slow: str, fast: str) -> float:
        """Steps on the latents of `slow` over those on `fast`: above 1, `fast` gets there first."""
        return self.steps[slow].steps / self.steps[fast].steps


def curves(found: Results) -> dict[int, dict[str, list[Point]]]:
    """Seed -> arm -> the proxy's distances by training step, of the seeds that all arms have."""
    by_arm = {
        arm: {
            int(record["seed"]): [Point.model_validate(point) for point in record[CURVE]]
            for record in records
            if CURVE in record
        }
        for arm, records in found.records.items()
    }
    seeds = set.intersection(*(set(seeds) for seeds in by_arm.values()))
    return {seed: {arm: by_arm[arm][seed] for arm in by_arm} for seed in sorted(seeds)}


def speeds(found: Results) -> list[Seed]:
    """Steps to the level by seed."""
    made = []
    for seed, by_arm in curves(found).items():
        level = max(points[-1].kernel for points in by_arm.values())
        steps = {arm: reached(points, level) for arm, points in by_arm.items()}
        made.append(
            Seed(seed=seed, level=level, steps={arm: step for arm, step in steps.items() if step is not None})
        )
    return made


def finding(ratios: list[float]) -> Finding:
    """Whether ratios over seeds are above 1.

    Returns:
        ``appeared``: in every seed; ``reversed``: below 1 in every seed; ``leaning``: their product is above
        1; ``absent``: it is not; ``open``: fewer than two seeds.
    """
    if len(ratios) < 2:
        return "open"
    if min(ratios) > 1:
        return "appeared"
    if max(ratios) < 1:
        return "reversed"
    return "leaning" if math.prod(ratios) > 1 else "absent"


def findings(found: Results) -> dict[str, Finding]:
    """What the ledger of claims may name."""
    return {
        "fewer steps on joint latents than on distilled ones": finding(
            [seed.ratio(DISTILLED, JOINT) for seed in speeds(found)]
        )
    }
