"""The cells: a small product of factors, and from two of its cells one factor at a time. Imports no torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from benchmarks.study.arm import Arm

RECIPE = Path(__file__).parent / "recipes" / "cell.toml"

CLIPART = ("features.data=openclipart64", "features.native=64", "features.val=215")
OWN = (
    "features.of=tokenizer",
    "features.tokenizer=runs/study_objectives/ssl_ae_d4_seed0",
    "features.size=32",
)
SETS: dict[str, tuple[str, ...]] = {"cifar": (), "clipart": CLIPART, "own": OWN}
"""Features: EfficientNet-Lite0 on photographs and on drawings; a transformer that study_objectives trained
by self-distillation and reconstruction, at its 32 pixels."""

METRICS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "reweight_0.25": ("codebook.axes.mode=reweight", "codebook.axes.alpha=0.25"),
    "reweight_0.5": ("codebook.axes.mode=reweight", "codebook.axes.alpha=0.5"),
    "reweight_1": ("codebook.axes.mode=reweight", "codebook.axes.alpha=1.0"),
    "reweight_2": ("codebook.axes.mode=reweight", "codebook.axes.alpha=2.0"),
    "dsq_50": ("codebook.axes.mode=dsq", "codebook.axes.variance=0.5"),
    "dsq_80": ("codebook.axes.mode=dsq", "codebook.axes.variance=0.8"),
    "dsq_90": ("codebook.axes.mode=dsq", "codebook.axes.variance=0.9"),
    "dsq_95": ("codebook.axes.mode=dsq", "codebook.axes.variance=0.95"),
    "whiten": ("codebook.axes.mode=whiten",),
}
"""Metric of the search."""

MAIN = ("plain", "reweight_1", "dsq_90")
STARTS = ("data", "kmeans")
BASES = ("plain", "dsq_90")
NARROW = "dims=8"
"""The factor whose cell says with three seeds whether narrow codebooks win."""
FACTORS: dict[str, tuple[str, ...]] = {
    **{f"dims={width}": (f"dimensions={width}",) for width in (8, 32, 64)},
    **{f"codes={codes}": (f"codebook.codebook.codes={codes}",) for codes in (4096, 16384)},
}
"""Dimensions that there are at all, and codes; the bases have all dimensions and 1,024."""
SEEDS = (0, 1, 2)

NANO = ("features.of=tokenizer", "features.tokenizer=vtp_nano", "features.size=64")
FORECASTS: dict[str, tuple[str, ...]] = {
    **{f"stage_{stride}": (f"features.encoder.patch={stride}",) for stride in (2, 4, 8, 16, 32)},
    "clipart_16": CLIPART,
    "pixels": ("features.of=pixels",),
    "clipart_pixels": ("features.of=pixels", "features.patch=8", *CLIPART),
    "nano": NANO,
    "nano_block_1": (*NANO, "features.layer=1"),
    "own": OWN,
    "own_block_1": (*OWN, "features.layer=1"),
    "own_block_3": (*OWN, "features.layer=3"),
}
"""Feature sets of the forecasts: stages of EfficientNet-Lite0, raw patches, blocks of VTP-Nano and of the
transformer."""


DECODED = "decoder"
ROWS: dict[str, tuple[str, str, bool] | None] = {
    "dino_dec": None,
    "dino_vq": ("plain", "data", False),
    "plain": ("plain", "kmeans", True),
    "dsq_90": ("dsq_90", "kmeans", True),
    "reweight_1": ("reweight_1", "kmeans", True),
    "dims_8": ("plain", "kmeans", True),
}
"""The rows with a trained decoder: metric, initial codes, revival; None: not quantised."""


def make_arms(tiny: bool = False) -> list[Arm]:
    """All cells, those that matter most first.

    Args:
        tiny: A few images and codes, and an untrained network: they show that everything works.
    """
    arms = [*_main("cifar"), _continuous("cifar"), *_forecasts(), *_main("clipart"), _continuous("clipart")]
    arms += [*_one_factor("cifar"), *_own(), *_trained()]
    return [_tiny(arm) for arm in arms] if tiny else arms


def name_of(features: str, metric: str, start: str = "kmeans", *, revive: bool = True) -> str:
    """Name of a cell of the product."""
    return f"{features}.{metric}.{start}{'.revive' if revive else ''}"


def _main(features: str) -> list[Arm]:
    return [
        _cell(features, metric, start, revive=revive, seeds=SEEDS)
        for metric in MAIN
        for start in STARTS
        for revive in (False, True)
    ]


def _own() -> list[Arm]:
    """The cells that decide, on the transformer."""
    return [
        *(_cell("own", metric, "kmeans", revive=True, seeds=SEEDS) for metric in MAIN),
        _continuous("own"),
    ]


def _continuous(features: str) -> Arm:
    return Arm(
        name=f"{features}.dino_dec",
        about="deep features, not quantised",
        recipe=RECIPE,
        overrides=(*SETS[features], "continuous=true"),
        seeds=SEEDS,
    )


def _trained() -> list[Arm]:
    """Six rows with a trained decoder, on more images than the ridge decoder needs."""
    more = ("features.pool=5120", "features.train=4096", "measures.trained=500")
    arms = []
    for name, row in ROWS.items():
        factor = NARROW if name == "dims_8" else ""
        arm = (
            _continuous("cifar")
            if row is None
            else _cell("cifar", row[0], row[1], revive=row[2], seeds=SEEDS, more=factor)
        )
        arms.append(replace(arm, name=f"{DECODED}.{name}", overrides=(*arm.overrides, *more)))
    return arms


def _cell(
    features: str, metric: str, start: str, *, revive: bool, seeds: tuple[int, ...], more: str = ""
) -> Arm:
    naive = (metric, start, revive) == ("plain", "data", False)
    title = f"{metric.replace('_', ' ')}, {start}{', revival' if revive else ''}"
    return Arm(
        name=name_of(features, metric, start, revive=revive) + (f".{more.replace('=', '_')}" if more else ""),
        about=f"{title} (DINO-VQ)" if naive else f"{title}, {more.replace('=', ' ')}" if more else title,
        recipe=RECIPE,
        overrides=(
            *SETS[features],
            *METRICS[metric],
            f"training.initialise={start}",
            f"codebook.codebook.revive={str(revive).lower()}",
            *FACTORS.get(more, ()),
        ),
        seeds=seeds,
    )


def _one_factor(features: str) -> list[Arm]:
    arms = [
        _cell(features, metric, "kmeans", revive=True, seeds=(0,)) for metric in METRICS if metric not in MAIN
    ]
    for base in BASES:
        arms += [_cell(features, base, start, revive=True, seeds=(0,)) for start in ("random", "normal")]
        arms += [
            _cell(
                features,
                base,
                "kmeans",
                revive=True,
                seeds=SEEDS if (base, more) == ("plain", NARROW) else (0,),
                more=more,
            )
            for more in FACTORS
        ]
    return sorted(arms, key=lambda arm: "codes" in arm.name)  # the dear ones last


def _forecasts() -> list[Arm]:
    return [
        Arm(
            name=f"use.{name}",
            about="plain, data, beside its forecast",
            recipe=RECIPE,
            overrides=(
                *overrides,
                "features.pool=640",
                "features.train=640",
                *(() if CLIPART[0] in overrides else ("features.val=384",)),
                "training.initialise=data",
                "codebook.codebook.revive=false",
                "measures.decoder=0",
                "measures.forecast=true",
            ),
        )
        for name, overrides in FORECASTS.items()
    ]


def _tiny(arm: Arm) -> Arm:
    small: tuple[str, ...] = (
        "features.pool=24", "features.train=20", "features.val=8", "features.encoder.weights=random",
        "training.steps=12", "training.batch=64", "training.initial=64",
    )  # fmt: skip
    if "measures.decoder=0" not in arm.overrides:
        small = (*small, "measures.decoder=16")
    if arm.name.startswith(DECODED):
        small = (*small, "measures.trained=2")
    codes = () if any("codes=" in text for text in arm.overrides) else ("codebook.codebook.codes=16",)
    return replace(arm, overrides=(*arm.overrides, *small, *codes), seeds=arm.seeds[:1])
