"""The arms: no adversarial loss, one that trains everything from the start, one in a second stage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from benchmarks.study.arm import Arm

RECIPES = Path(__file__).parent / "recipes"

FIRST_STEPS = 330
"""Steps of the first of two stages; with the 170 of the second they are as many as the other arms have."""


def make_arms(tiny: bool = False) -> list[Arm]:
    """All arms.

    Args:
        tiny: Networks of one block and four steps on few samples: they show that everything works.
    """
    arms = [
        Arm(name="no_gan", about="no critic", recipe=RECIPES / "no_gan.toml", seeds=(0, 1, 2)),
        Arm(
            name="gan_always",
            about="critic from step 0, trains everything",
            recipe=RECIPES / "gan_always.toml",
            seeds=(0, 1, 2),
        ),
        Arm(
            name="two_stages",
            about="critic in a second stage, trains the decoder",
            recipe=RECIPES / "second_stage.toml",
            seeds=(0, 1, 2),
            first=RECIPES / "no_gan.toml",
            first_overrides=(f"run.steps={FIRST_STEPS}",),
        ),
    ]
    return [_tiny(arm) for arm in arms] if tiny else arms


def _tiny(arm: Arm) -> Arm:
    small = (
        "run.steps=4", "run.checkpoint_every=2", "run.precision=float32",
        "encoder.width=24", "encoder.depth=1", "encoder.heads=2", "encoder.patch=8",
        "decoder.width=24", "decoder.depth=1", "decoder.heads=2", "views.rec.rows=4",
        'objectives.perceptual.weights="random"', 'evaluators.distances.weights="random"',
        'evaluators.squeeze.weights="random"', "evaluators.distances.side=32", "evaluators.squeeze.side=32",
        "evaluate.limit=8",
    )  # fmt: skip
    critic: tuple[str, ...] = ()
    if arm.name != "no_gan":
        critic = ('objectives.gan.critic.weights="random"', "objectives.gan.critic.size=32")
    late = ("objectives.gan.warmup=1", "objectives.gan.ramp=1") if arm.first is not None else ()
    return replace(
        arm,
        overrides=(*arm.overrides, *small, *critic, *late),
        first_overrides=(*arm.first_overrides, *small) if arm.first is not None else (),
    )
