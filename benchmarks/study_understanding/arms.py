"""The tokenizers: the objectives, widths, bottlenecks and stages of the other studies, at 32 pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from benchmarks.study.arm import Arm
from benchmarks.study_objectives.arms import HEADS, tiny_arm
from benchmarks.study_objectives.arms import RECIPES as OBJECTIVES
from benchmarks.study_objectives.arms import make_arms as objective_arms

RECIPES = Path(__file__).parent / "recipes"

EVALUATORS = (
    'evaluators.mean_latent={ use = "linear_probe", features = "latent" }',
    'evaluators.latent_statistics={ use = "latent_statistics" }',
    'evaluators.diffusability={ use = "diffusability" }',
)
"""Beside those of the recipes: PSNR, SSIM, the probe of whole latents, that of the encoder's features."""
TINY_DIFFUSABILITY = "evaluators.diffusability={ samples = 16, decoded = 4, least_neighbours = 1.5 }"

EXTRA_PROXIES = ("ae_d4", "clip_ssl_ae_d16", "vq")
"""Tokenizers with four more proxies, which tell the error of one."""
PROXIES = 5

DISCRETE = ("vq", "fsq", "bsq", "clip_vq", "frozen_dsq")
WIDE = ("frozen_concat", "frozen_mean", "frozen_dsq", "frozen_ae")
"""Their latents have 192 or 224 channels, more than the width 128 of the proxy's transformer."""
FROZEN = ("frozen_linear", "frozen_concat", "frozen_mean", "frozen_dsq", "frozen_ae")

_CODES = 'quantizer = { kind = "ema", codes = 1024, alarm = 0.0 }'
_DSQ = "quantizer = { codebook = { codes = 1024, commitment = 0.0, alarm = 0.0 } }"
_SHALLOW = '{ kind = "concat", layers = [1], shallow = 32 }'


def make_arms(tiny: bool = False) -> list[Arm]:
    """All arms; those that others start from come before them.

    Args:
        tiny: Networks of one block and four steps on few samples: they show that everything works.
    """
    objectives = {arm.name: replace(arm, seeds=(0,)) for arm in objective_arms(tiny)}
    others = [*_widths(), *_bottlenecks(), *_stages(objectives)]
    if tiny:
        others = [_tiny(arm) for arm in others]
    more = (*EVALUATORS, TINY_DIFFUSABILITY) if tiny else EVALUATORS
    return [
        replace(
            arm,
            overrides=(*arm.overrides, *more),
            first_overrides=(*arm.first_overrides, *more) if arm.first is not None else (),
        )
        for arm in [*objectives.values(), *others]
    ]


def is_tiny(arm: Arm) -> bool:
    """Whether an arm is one of `make_arms(tiny=True)`."""
    return TINY_DIFFUSABILITY in arm.overrides


def proxy_seeds(arm: str) -> tuple[int, ...]:
    """Seeds of the proxies that are trained on an arm's latents."""
    return tuple(range(PROXIES)) if arm in EXTRA_PROXIES else (0,)


def _widths() -> list[Arm]:
    """Auto-encoders of other widths; objectives that read the latents of the large width."""
    arms = [
        Arm(
            name=f"ae_d{width}",
            about=f"AE, d = {width}",
            recipe=OBJECTIVES / "ae.toml",
            overrides=(f"bottleneck.channels={width}",),
        )
        for width in (2, 8, 32)
    ]
    heads = tuple(f"objectives.{name}.bottleneck=true" for name in HEADS)
    return [
        *arms,
        Arm(
            name="through_bottleneck_d16",
            about="all objectives, d = 16, bottleneck_ae_only = false",
            recipe=OBJECTIVES / "clip_ssl_ae.toml",
            overrides=("bottleneck.channels=16", *heads),
        ),
    ]


def _bottlenecks() -> list[Arm]:
    """Variational latents of three weights, four codebooks."""
    kl = [
        _other(
            f"kl_{weight}",
            f"AE with KL, d = 16, weight {weight}",
            f'use = "kl", channels = 16, weight = {weight}',
        )
        for weight in ("1e-6", "1e-5", "1e-4")
    ]
    codes = f'use = "vq", channels = 8, {_CODES}'
    clip = _other("clip_vq", "CLIP + AE, 1,024 codes of width 8", codes)
    return [
        *kl,
        _other("vq", "AE, 1,024 codes of width 8", codes),
        _other(
            "fsq", "AE, FSQ of 1,000 codes", 'use = "vq", quantizer = { kind = "fsq", levels = [8, 5, 5, 5] }'
        ),
        _other("bsq", "AE, BSQ of 10 bits", 'use = "vq", quantizer = { kind = "bsq", bits = 10 }'),
        replace(clip, recipe=OBJECTIVES / "clip_ae.toml"),
    ]


def _other(name: str, about: str, bottleneck: str) -> Arm:
    table = f"bottleneck={{ {bottleneck} }}"
    return Arm(name=name, about=about, recipe=OBJECTIVES / "ae.toml", overrides=(table,))


def _stages(first: Mapping[str, Arm]) -> list[Arm]:
    """Adversarial losses, and bottlenecks on frozen encoders."""
    gan, stage = RECIPES / "gan.toml", RECIPES / "gan_stage.toml"
    return [
        Arm(name="gan", about="AE with GAN, d = 4", recipe=gan),
        *(
            Arm(
                name=f"gan_stage_{name}",
                about=f"{first[name].about}, decoder tuned with GAN",
                recipe=stage,
                overrides=(f"bottleneck.channels={name.rpartition('_d')[2]}",),
                first=first[name].recipe,
                first_overrides=first[name].overrides,
            )
            for name in ("ae_d4", "clip_ssl_ae_d16")
        ),
        _frozen("linear", 'use = "linear", channels = 16', first["clip_ssl_ae_d16"]),
        _frozen("concat", f'use = "fusion", fusion = {_SHALLOW}', first["clip_ssl_ae_d16"]),
        _frozen(
            "mean",
            'use = "fusion", fusion = { kind = "mean", layers = [1, 3, 5], add_mean = true }',
            first["clip_ssl_ae_d16"],
        ),
        _frozen("dsq", f'use = "pca_vq", fusion = {_SHALLOW}, {_DSQ}', first["clip_ssl_ae_d16"]),
        _frozen("ae", f'use = "fusion", fusion = {_SHALLOW}', first["ae_d16"]),
    ]


def _frozen(name: str, bottleneck: str, first: Arm) -> Arm:
    return Arm(
        name=f"frozen_{name}",
        about=f"encoder of {first.name}, frozen: {name}",
        recipe=RECIPES / "frozen.toml",
        overrides=(f"bottleneck={{ {bottleneck} }}",),
        first=first.recipe,
        first_overrides=first.overrides,
    )


def _tiny(arm: Arm) -> Arm:
    """Tiny, with its codebooks and critic."""
    small = tiny_arm(arm)
    overrides = [
        text.replace("codes = 1024", "codes = 16")
        .replace("[1, 3, 5]", "[0]")
        .replace("layers = [1]", "layers = [0]")
        for text in small.overrides
    ]
    if "gan" in arm.recipe.stem:
        overrides += ["objectives.gan.rows=4", 'objectives.gan.critic.weights="random"']
    if arm.recipe.stem == "gan_stage":
        overrides += ["objectives.gan.warmup=1", "objectives.gan.ramp=1"]
    return replace(arm, overrides=tuple(overrides))
