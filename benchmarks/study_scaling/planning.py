"""What the study takes: FLOPs of every run by `vtp plan`, hours by rates that were measured."""

from __future__ import annotations

from benchmarks.study_scaling.arms import chains_of
from vtp_core.plugins import load_plugins
from vtp_plugins.scale.cost import Costs
from vtp_plugins.scale.text import costs_text

SECONDS_A_TERAFLOP = 17.0
"""CPU seconds of training for 1e12 forward FLOPs; study_objectives took 21 (AE) and 12 at size b."""
AROUND = 60.0
"""CPU seconds of a run's start, evaluation and report."""
PROXY = 300.0
"""CPU seconds of a proxy in a process of one thread; study_understanding took 260 to 300."""
CORES = 2


def plan_text() -> str:
    """The runs, then the hours."""
    chains, costs = chains_of((), tiny=False), Costs(load_plugins())
    runs = [run for chain in chains for run in chain]
    found = [costs.of(run) for run in runs]
    trained = sum(cost.flops * (1 - run.start / run.steps) for run, cost in zip(runs, found, strict=True))
    seconds = {
        "training": trained / 1e12 * SECONDS_A_TERAFLOP,
        "starts, evaluations and reports": len(runs) * AROUND,
        "proxies": len(runs) * PROXY,
    }
    lines = [costs_text([(run.name, "") for run in runs], [cost.data() for cost in found]), ""]
    lines += [f"{len(runs)} runs, {trained:.3g} forward FLOPs are trained"]
    lines += [f"{what}: {spent / 3600:.1f} h of one core" for what, spent in seconds.items()]
    lines += [f"in all about {sum(seconds.values()) / 3600 / CORES:.1f} h on {CORES} cores"]
    return "\n".join(lines)
