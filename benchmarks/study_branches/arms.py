"""The cells: latents of deep and shallow layers, at three levels, for two encoders and two sets of images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from benchmarks.study.arm import Arm

RECIPE = Path(__file__).parent / "recipes" / "cell.toml"

ENCODERS: dict[str, tuple[str, ...]] = {
    "nano": (),
    "cnn": (
        "features.size=128",
        'features.encoder={ use = "timm", name = "tf_efficientnet_lite0", norm = "none", patch = 16 }',
        'concat.norm="none"',
    ),
}
"""VTP-Nano's transformer; EfficientNet-Lite0 up to stride 16, a convolutional network trained with labels."""

SETS: dict[str, tuple[str, ...]] = {
    "cifar": (),
    "drawings": (
        'features.data="samples"',
        "features.native=64",
        "features.pool=800",
        "features.train=640",
        "features.val=215",
    ),
}
"""Photographs, and drawings of the package."""

KINDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "deep": ("deep only", ('latent.of="deep"',)),
    "shallow": ("shallow only", ('latent.of="shallow"',)),
    "concat": ("deep beside shallow", ('latent.of="both"',)),
    "residual": ("deep beside a trained branch", ('latent.of="residual"',)),
    "mean": ("mean of layers", ('latent.of="mean"',)),
    "layer_drop": ("mean of random layers", ('latent.of="mean"', "mean.layer_drop=0.5")),
}
"""Latents. The mean is of layers of one width, so a convolutional network has none."""
ONLY_TRANSFORMER = ("mean", "layer_drop")

CHANNELS = 32
CODES = 1024
EMA = "commitment = 0.0, alarm = 0.0"
LEVELS: dict[str, tuple[str, tuple[str, ...]]] = {
    "own": ("all channels", ()),
    "channels": (f"{CHANNELS} channels", (f"latent.channels={CHANNELS}",)),
    "bits": (
        f"{CHANNELS} channels, {CODES} codes",
        (
            f"latent.channels={CHANNELS}",
            f'latent.quantizer={{ kind = "ema", codes = {CODES}, {EMA} }}',
        ),
    ),
}
"""How much room the latent has."""
TWO_BOOKS = (
    f"latent.channels={CHANNELS}",
    f'latent.quantizer={{ kind = "product", groups = 2, each = {{ kind = "ema", codes = 32, {EMA} }} }}',
)
"""A codebook a branch, with the bits of the single one: 2 x 5."""
SEEDS = (0, 1, 2)


def name_of(encoder: str, images: str, level: str, kind: str) -> str:
    """Name of an arm."""
    return f"{encoder}_{images}.{level}.{kind}"


def kinds_of(encoder: str) -> list[str]:
    """The latents that an encoder has."""
    return [kind for kind in KINDS if encoder == "nano" or kind not in ONLY_TRANSFORMER]


def make_arms(tiny: bool = False) -> list[Arm]:
    """All cells, those of one encoder and set together.

    Args:
        tiny: A few images and codes, and an untrained network: they show that everything works.
    """
    arms = []
    for images in SETS:
        for encoder in ENCODERS:
            for level, (room, overrides) in LEVELS.items():
                for kind in kinds_of(encoder):
                    title, more = KINDS[kind]
                    arms.append(_arm(encoder, images, level, kind, f"{title}, {room}", (*more, *overrides)))
            arms.append(
                _arm(
                    encoder, images, "bits", "concat_two", "deep beside shallow, 32 x 32 codes",
                    ('latent.of="both"', *TWO_BOOKS),
                )
            )  # fmt: skip
    return [_tiny(arm) for arm in arms] if tiny else arms


def _arm(encoder: str, images: str, level: str, kind: str, about: str, overrides: tuple[str, ...]) -> Arm:
    return Arm(
        name=name_of(encoder, images, level, kind),
        about=about,
        recipe=RECIPE,
        overrides=(*SETS[images], *ENCODERS[encoder], *overrides),
        seeds=SEEDS if images == "cifar" else SEEDS[:1],
    )


def _tiny(arm: Arm) -> Arm:
    small = (
        "features.pool=24", "features.train=20", "features.val=8", "measures.decoder=10",
        "training.steps=4", "training.batch=64", "training.initial=640", "concat.shallow=16",
        "residual.steps=2",
    )  # fmt: skip
    overrides = tuple(
        text.replace("codes = 1024", "codes = 16").replace("norm =", 'weights = "random", norm =')
        for text in arm.overrides
    )
    return replace(arm, overrides=(*overrides, *small), seeds=arm.seeds[:1])
