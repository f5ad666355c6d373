"""Four sets of objectives, two widths of the latent, four weights of reconstruction, two readings."""

from __future__ import annotations

from pathlib import Path

from benchmarks.study.arm import Arm

RECIPES = Path(__file__).parent / "recipes"

MAIN = {
    "ae": "AE",
    "clip_ae": "CLIP + AE",
    "ssl_ae": "SSL + AE",
    "clip_ssl_ae": "CLIP + SSL + AE",
}
"""Recipe -> how the paper writes it."""

SMALL, LARGE = 4, 16
"""Latent channels for a patch of 48 numbers: the ratios of the paper's 64 and 256 to 768."""

PAPER_WEIGHT = 0.1
OTHER_WEIGHTS = (1.0, 0.3, 0.03)
"""Weights of the reconstruction beside the paper's 0.1, which the recipes have."""

HEADS = ("clip", "dino", "mim", "koleo")
"""Objectives that read the encoder's tokens, or the latent's."""


def make_arms(tiny: bool = False) -> list[Arm]:
    """All arms.

    Args:
        tiny: Networks of one block and four steps on few samples: they show that everything works.
    """
    arms = [
        Arm(
            name=f"{recipe}_d{SMALL}",
            about=f"{title}, d = {SMALL}",
            recipe=RECIPES / f"{recipe}.toml",
            overrides=(f"bottleneck.channels={SMALL}",),
            seeds=(0, 1, 2),
        )
        for recipe, title in MAIN.items()
    ]
    arms += [
        Arm(
            name=f"{recipe}_d{LARGE}",
            about=f"{title}, d = {LARGE}",
            recipe=RECIPES / f"{recipe}.toml",
            overrides=(f"bottleneck.channels={LARGE}",),
        )
        for recipe, title in MAIN.items()
    ]
    arms += [
        Arm(
            name=f"lambda_{weight:g}",
            about=f"all objectives, d = {SMALL}, lambda_rec = {weight:g}",
            recipe=RECIPES / "clip_ssl_ae.toml",
            overrides=(f"objectives.l1.weight={weight}", f"objectives.perceptual.weight={weight}"),
        )
        for weight in OTHER_WEIGHTS
    ]
    arms.append(
        Arm(
            name="through_bottleneck",
            about=f"all objectives, d = {SMALL}, bottleneck_ae_only = false",
            recipe=RECIPES / "clip_ssl_ae.toml",
            overrides=tuple(f"objectives.{name}.bottleneck=true" for name in HEADS),
        )
    )
    return [tiny_arm(arm) for arm in arms] if tiny else arms


def tiny_arm(arm: Arm) -> Arm:
    """An arm of these recipes with networks of one block and four steps on few samples."""
    small = [
        "run.steps=4", "run.checkpoint_every=2", "run.log_every=1", "run.precision=float32",
        "encoder.width=24", "encoder.depth=1", "encoder.heads=2", "encoder.patch=8",
        "decoder.width=24", "decoder.depth=1", "decoder.heads=2", "views.image.rows=8",
        'objectives.perceptual.weights="random"', "objectives.l1.rows=4", "objectives.perceptual.rows=4",
        "evaluate.limit=40",
    ]  # fmt: skip
    recipe = arm.recipe.stem
    if "clip" in recipe:
        small += ["objectives.clip.width=16", "objectives.clip.depth=1", "objectives.clip.heads=2"]
        small += ["objectives.clip.merges=100"]
    if "ssl" in recipe:
        small += ["views.ssl.rows=4", "objectives.dino.prototypes=16", "objectives.mim.prototypes=16"]
        small += ["objectives.dino.head_hidden=16", "objectives.dino.head_width=8"]
        small += [f"objectives.{name}.start=2" for name in ("dino", "mim", "koleo")]
    return Arm(
        name=arm.name,
        about=arm.about,
        recipe=arm.recipe,
        overrides=(*arm.overrides, *small),
        seeds=arm.seeds,
    )
