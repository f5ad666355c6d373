"""The numbers that are asked how well they forecast generation. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy

from benchmarks.study.proxies import KERNEL
from benchmarks.study.results import Results
from benchmarks.study_understanding.arms import DISCRETE, FROZEN, WIDE
from benchmarks.study_understanding.statistics import Numbers

LATENTS = "linear_probe"
PSNR = "psnr"
RECONSTRUCTION = "reconstruction_kernel"


@dataclass(frozen=True)
class Figure:
    """A number of a tokenizer that needs no generator.

    Attributes:
        title: For tables.
        metric: Its name in the records.
        sign: -1 if it should fall with the distance of generated samples, so that more of it is better; 1 if
            less of it is; 0 if nobody claims either.
    """

    title: str
    metric: str
    sign: int = 0


FIGURES = (
    Figure("probe, latent map", LATENTS, -1),
    Figure("probe, mean latent", "mean_latent.linear_probe", -1),
    Figure("probe, features", "features.linear_probe", -1),
    Figure("PSNR", PSNR),
    Figure("SSIM", "ssim"),
    Figure("kernel distance of reconstructions", RECONSTRUCTION, 1),
    Figure("channels", "channels"),
    Figure("effective rank", "effective_rank"),
    Figure("participation ratio", "participation_ratio"),
    Figure("RankMe", "rankme"),
    Figure("kurtosis", "latent_kurtosis"),
    Figure("variance of velocity, tokens, t = 0.3", "token_variance_t0.3", 1),
    Figure("variance of velocity, tokens, t = 0.5", "token_variance_t0.5", 1),
    Figure("variance of velocity, tokens, t = 0.7", "token_variance_t0.7", 1),
    Figure("variance of velocity, latents, t = 0.1", "latent_variance_t0.1", 1),
    Figure("variance of velocity, latents, t = 0.3", "latent_variance_t0.3", 1),
    Figure("slope of the spectrum", "spectrum_slope", 1),
    Figure("uniformity", "uniformity"),
    Figure("scale error", "scale_error", 1),
    Figure("decode with noise, PSNR", "decode_noise_0.3", -1),
)

GROUPS: tuple[tuple[str, str, frozenset[str]], ...] = (
    ("all", "all tokenizers", frozenset()),
    ("continuous", "without codebooks", frozenset(DISCRETE)),
    ("trained", "without frozen encoders", frozenset(FROZEN)),
    ("narrow", "latents no wider than the proxy's transformer", frozenset(WIDE)),
)
"""Name, title, arms that are left out. The last one was added after the first 25 records."""


def arms_of(found: Results, left_out: frozenset[str] = frozenset()) -> list[str]:
    """The arms that have a distance, but those left out."""
    return [arm.name for arm in found.arms if arm.name not in left_out and found.values(arm.name, KERNEL)]


def column(found: Results, arms: Sequence[str], metric: str) -> Numbers:
    """A metric of arms (n,); NaN where it is lacking."""
    values = [found.values(arm, metric) for arm in arms]
    return numpy.array([each[0] if each else numpy.nan for each in values], dtype=numpy.float64)


def protocols_of(found: Results, metric: str) -> set[str]:
    """The protocols by which a metric of the records was measured."""
    entries = [record["metrics"].get(metric) for records in found.records.values() for record in records]
    return {str(entry["protocol"]) for entry in entries if entry is not None and "protocol" in entry}
