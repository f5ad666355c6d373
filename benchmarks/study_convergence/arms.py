"""The three tokenizers: pixels alone, distilled from a vision model, trained jointly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from benchmarks.study.arm import Arm
from benchmarks.study_objectives.arms import LARGE, tiny_arm
from benchmarks.study_objectives.arms import RECIPES as OBJECTIVES

RECIPES = Path(__file__).parent / "recipes"

AE, DISTILLED, JOINT = "ae", "distilled", "joint"
SEEDS = (0, 1)
"""Of a tokenizer and of the proxy on it."""
TINY_STEPS = "run.steps=4"


def make_arms(tiny: bool = False) -> list[Arm]:
    """All arms, of latents with a third of a patch's numbers.

    Args:
        tiny: Networks of one block and four steps on few samples: they show that everything works.
    """
    width = (f"bottleneck.channels={LARGE}",)
    arms = [
        Arm(name=AE, about="AE", recipe=OBJECTIVES / "ae.toml"),
        Arm(name=DISTILLED, about="AE, aligned with a vision model", recipe=RECIPES / "distilled.toml"),
        Arm(name=JOINT, about="CLIP + SSL + AE", recipe=OBJECTIVES / "clip_ssl_ae.toml"),
    ]
    arms = [replace(arm, overrides=width, seeds=SEEDS) for arm in arms]
    return [_tiny(arm) for arm in arms] if tiny else arms


def is_tiny(arm: Arm) -> bool:
    """Whether an arm is one of `make_arms(tiny=True)`."""
    return TINY_STEPS in arm.overrides


def _tiny(arm: Arm) -> Arm:
    small = tiny_arm(arm)
    if arm.name != DISTILLED:
        return small
    more = ('frozen.vision.weights="random"', "frozen.vision.patch=32", "objectives.align.width=320")
    return replace(small, overrides=(*small.overrides, *more, "objectives.align.rows=4"))
