"""What a codebook on given features would be like: effective dimensions, spread of distances, use, error.

The use is that of a codebook which follows the features for some steps, begun and revived as the bottlenecks
do it by default, or bare: from rows of the data, without revival. Nothing else is trained.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vtp_core.errors import DataError
from vtp_core.math.moments import Moments
from vtp_core.math.row_noise import row_rand, row_seeds
from vtp_plugins.pca_vq.axes import effective_dimensions
from vtp_plugins.pca_vq.config import AxesConfig, BranchConfig
from vtp_plugins.pca_vq.rotated import RotatedQuantizer

STEPS, BATCH, DECAY = 100, 2048, 0.95
"""Updates of the codebook, vectors of each, and decay of its moving average: enough for use to settle."""
METRICS: dict[str, AxesConfig] = {
    "plain": AxesConfig(mode="plain"),
    "reweight 1": AxesConfig(mode="reweight", alpha=1.0),
    "dsq 90 %": AxesConfig(mode="dsq", variance=0.9),
}
BARE = {"initialise": "data", "revive": False}
"""Keys of a codebook without the help that is the default."""
HEALTHY = 0.8
"""Use from which a plain codebook needs no principal axes."""
GAIN = 0.98
"""Error, as a fraction of the plain codebook's, below which other axes are worth their trouble."""
FEWEST = 4
"""Vectors, at least, that a codebook is trained on, and as many that it is measured on."""


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """One metric's codebook.

    Attributes:
        metric: Name of the metric.
        bare: Whether without k-means++ and revival.
        axes: Principal axes that the search sees.
        d_eff: Effective dimensions of the search.
        spread: Deviation over mean of distances between vectors, sqrt(2 / d_eff) of Gaussian ones.
        measured_spread: The same, measured between vectors.
        use: Fraction of the codes that vectors of other images choose, as many as there may be (`ever_used`).
        perplexity: exp of the entropy of their choice.
        error: Mean squared error of held-out vectors, a fraction of their variance.
        above_bound_db: That error above the Gaussian bound at its bits, in dB.
    """

    metric: str
    bare: bool
    axes: int
    d_eff: float
    spread: float
    measured_spread: float
    use: float
    perplexity: float
    error: float
    above_bound_db: float


@torch.no_grad()
def forecast(vectors: Tensor, codes: int, metric: str, *, bare: bool = False, seed: int = 0) -> Forecast:
    """Trains a codebook of `codes` codes on half of the images and measures it on the other half.

    Args:
        vectors: (B, n, D), finite: n vectors of each image. Those of one image are alike, so a codebook that
            is too large for the data seems well used on images that it was trained on.
        codes: K.
        metric: A key of `METRICS`.
        bare: Without k-means++ and revival.
        seed: Of the split and of the batches.

    Raises:
        DataError: There are too few vectors, or all are equal.
    """
    order = row_rand(row_seeds(seed, torch.arange(len(vectors)))).argsort()
    train, held_out = (vectors[order[start::2]].flatten(0, 1) for start in (0, 1))
    if len(held_out) < FEWEST:
        images, each = vectors.shape[:2]
        raise DataError(
            f"{images} images with {each} vectors each are too few for a forecast, as half of them are held "
            f"out: read at least {2 * -(-FEWEST // each)}"
        )
    table = {"codes": codes, "decay": DECAY, "commitment": 0.0, "alarm": 0.0, **(BARE if bare else {})}
    config = BranchConfig(axes=METRICS[metric], codebook=table)
    quantizer = RotatedQuantizer(config, vectors.shape[-1], "features")
    quantizer.calibrate(Moments.of(train))
    quantizer.initialise(train)
    for step in range(STEPS):
        places = (row_rand(row_seeds(seed + step + 1, torch.arange(BATCH))) * len(train)).long()
        quantizer.after_step(quantizer(train[places]).tally, step)
    found = quantizer.eval()(held_out)
    counts = torch.bincount(found.codes[:, 0], minlength=codes).double()
    p = counts / counts.sum()
    error = (found.vectors - held_out).square().sum(-1).mean()
    half = len(held_out) // 2
    between = (quantizer.weights * ((held_out[:half] - held_out[-half:]) @ quantizer.vectors).square()).sum(
        -1
    )
    least = torch.finfo(between.dtype).tiny
    d_eff = effective_dimensions(quantizer.variances, quantizer.weights).item()
    return Forecast(
        metric=metric,
        bare=bare,
        axes=int(quantizer.rank),
        d_eff=d_eff,
        spread=math.sqrt(2 / d_eff),
        measured_spread=(between.std() / between.mean().clamp(min=least)).item(),
        use=ever_used(counts) / codes,
        perplexity=math.exp(-torch.xlogy(p, p).sum().item()),
        error=(error / quantizer.variances.sum()).item(),
        above_bound_db=(10 * torch.log10((error / quantizer.bound[0]).clamp(min=least))).item(),
    )


def ever_used(counts: Tensor) -> float:
    """How many codes any number of vectors would choose, from the counts (K,) of some; at most K.

    Source: Chao 1984, the bias-corrected estimate of unseen species from those seen once and twice.
    """
    once, twice = ((counts == number).sum().item() for number in (1, 2))
    return float(min((counts > 0).sum().item() + once * (once - 1) / (2 * (twice + 1)), len(counts)))


def advice(forecasts: Sequence[Forecast], codes: int) -> str:
    """What follows for a recipe. Principal axes are only for what a plain codebook with its help can't do.

    More use alone is no reason: with k-means++ and revival DSQ used more codes than the plain metric at the
    same error and PSNR, and reweighting lost meaning (benchmarks/study_pca_vq).
    """
    plain = next(each for each in forecasts if each.metric == "plain" and not each.bare)
    bare = next((each for each in forecasts if each.metric == "plain" and each.bare), None)
    without = "" if bare is None else f" ({100 * bare.use:.0f} % without)"
    said = (
        f"With k-means++ and revival a plain codebook uses {100 * plain.use:.0f} % of {codes} codes{without}"
    )
    if plain.use >= HEALTHY:
        return f"{said}: bottleneck vq will do; pca_vq would change little"
    better = [
        each
        for each in forecasts
        if each.metric != "plain" and each.use >= HEALTHY and each.error < GAIN * plain.error
    ]
    if not better:
        return (
            f"{said}, and principal axes hardly lower its error: take fewer codes, or read more --images if "
            "they were too few; an encoder that trains can have fewer channels (vq with channels = 8)"
        )
    best = min(better, key=lambda each: each.error)
    axes = METRICS[best.metric]
    keys = f'mode = "{axes.mode}"'
    keys += f", variance = {axes.variance}" if axes.mode == "dsq" else f", alpha = {axes.alpha}"
    return (
        f"{said}. Bottleneck pca_vq with axes = {{ {keys} }} uses {100 * best.use:.0f} %, with an error of "
        f"{best.error:.3f} of the variance against {plain.error:.3f}"
    )
