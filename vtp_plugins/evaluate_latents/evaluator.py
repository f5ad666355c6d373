"""Statistics of latents: spectrum of their covariance, shape of their channels, and those of the artefact."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from vtp_core.evaluation.evaluator import Aspect, Evaluator, Observation
from vtp_core.evaluation.jackknife import Estimate
from vtp_core.evaluation.protocol import Baseline, Metric, Score
from vtp_core.features import Tally
from vtp_core.tokenizer import Tokenizer
from vtp_plugins.evaluate_latents.config import LatentStatisticsConfig
from vtp_plugins.evaluate_latents.metric import (
    LEAST_DEVIATION,
    dimensions,
    effective_rank,
    gaussian_gap,
    participation_ratio,
    rankme,
    spectrum,
    uncentred,
    white_spectrum,
)
from vtp_plugins.evaluate_latents.moments import (
    GroupedMoments,
    HigherMoments,
    leave_one_out,
    merged_groups,
)

COLORS = "colours of the latent's grid"
NO_STATISTICS = "mean 0, deviation 1"
WHITE = "of white Gaussian vectors"
SHARES = 8
"""Largest shares of the variance that are named one by one."""

_T = TypeVar("_T")


class LatentStatistics(Evaluator):
    """Spectrum, kurtosis and dead channels of latents, and how far they are from the artefact's statistics.

    The trivial latent has three channels: the mean colours of the cells of the latent's grid.
    """

    requires = frozenset({"encode"})
    config: LatentStatisticsConfig

    def __init__(self, config: LatentStatisticsConfig) -> None:
        super().__init__(config)
        self._moments: dict[str, GroupedMoments] = {}
        self._artefact: tuple[Tensor, Tensor] | None = None
        self._channels: int | None = None

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """Ranks are at most the number of channels."""
        ranks = {
            "effective_rank": "Effective rank of the latents",
            "participation_ratio": "Participation ratio of the latents",
            "rankme": "RankMe of the images' mean latents",
        }
        most = self._channels
        return {
            **{name: Metric(title=title, digits=2, low=1, high=most) for name, title in ranks.items()},
            "latent_kurtosis": Metric(
                title="Excess kurtosis of latent channels, magnitude", higher_is_better=False, digits=3, low=0
            ),
            "dead_channels": Metric(
                title="Latent channels that are dead", higher_is_better=False, digits=3, low=0, high=1
            ),
            "statistics_gap": Metric(
                title="Latents beside the artefact's statistics",
                unit="nats",
                higher_is_better=False,
                digits=4,
                low=0,
            ),
        }

    @property
    def protocol(self) -> str:
        """Name, version and settings."""
        return "latent-statistics-v1 (mode latent, vectors of all positions of all images, float64)"

    def protocol_of(self, metric: str) -> str:
        """A metric's protocol has the settings that it depends on."""
        name = "latent-statistics-v1 (mode latent, "
        dead = f"deviation at most {self.config.dead:g} of the root mean square"
        how = {
            "rankme": f"{name}mean of each image, not centred, float64)",
            "dead_channels": f"{name}{dead}, float64)",
            "latent_kurtosis": f"{name}mean magnitude, without channels of {dead}, float64)",
            "statistics_gap": f"{name}Gaussian divergence, mean of channels, float64)",
        }
        return how.get(metric, self.protocol)

    @property
    def aspect(self) -> Aspect:
        """A generative model learns the latents' distribution."""
        return "generation"

    def begin(self, model: Tokenizer, classes: Sequence[str]) -> None:
        """Resets the moments; keeps the statistics of the artefact."""
        self._channels = width = model.latent_channels
        widths = {"latent": width, "pooled": width, "color": 3, "pooled_color": 3}
        self._moments = {name: GroupedMoments(size, model.device) for name, size in widths.items()}
        self._artefact = None
        if model.config is not None and model.config.latents_mean and model.config.latents_std:
            given = (model.config.latents_mean, model.config.latents_std)
            mean, std = (torch.tensor(values, dtype=torch.float64) for values in given)
            self._artefact = mean, std

    def update(self, seen: Observation) -> None:
        """Adds a held-out batch."""
        latent, keys = seen.encoded.latent, seen.batch.keys
        height, width = latent.shape[-2:]
        color = F.adaptive_avg_pool2d(seen.image.double(), (height, width))
        for name, pooled, maps in (("latent", "pooled", latent), ("color", "pooled_color", color)):
            vectors = maps.flatten(2).transpose(1, 2)
            self._moments[name].add(vectors, keys)
            self._moments[pooled].add(vectors.double().mean(1, keepdim=True), keys)

    def state(self) -> Tally:
        """The moments of this rank, one row each."""
        rows: dict[str, Tensor] = {}
        for name, moments in self._moments.items():
            rows |= moments.rows(name)
        return Tally(rows=rows)

    def compute(self, state: Tally) -> Mapping[str, Score]:
        """The metrics; of constant latents only the share of dead channels."""
        names = ("latent", "pooled", "color", "pooled_color")
        found = {name: leave_one_out(merged_groups(state.rows, name)) for name in names}
        latent, color = found["latent"], found["color"]
        std = latent[0].variance.sqrt()
        dead = _score(
            _estimate(latent, self._dead),
            COLORS,
            _estimate(color, lambda found: self._dead_beside(found, len(std))),
            also={**_by_channel("mean", latent[0].moments.mean), **_by_channel("deviation", std)},
        )
        if not bool((std > LEAST_DEVIATION).any()):
            note = "the latents are the same everywhere, so that they have no spectrum"
            return {"dead_channels": replace(dead, value=1.0, notes=(note,))}
        kurtosis = _score(
            _estimate(latent, self._kurtosis),
            COLORS,
            _estimate(color, self._kurtosis),
            also={
                WHITE: (48 / math.pi / float(latent[0].moments.count)) ** 0.5,
                **_by_channel("excess kurtosis", latent[0].excess_kurtosis),
            },
        )
        scores = {**_ranks(latent, color), "rankme": _rankme(found), "latent_kurtosis": kurtosis}
        scores["dead_channels"] = dead
        if self._artefact is not None:
            scores["statistics_gap"] = _gap(latent, *self._artefact)
        return scores

    def _live(self, found: HigherMoments) -> Tensor:
        """Which channels are not dead, (D,) bool."""
        return found.variance > self.config.dead**2 * found.variance.mean()

    def _dead(self, found: HigherMoments) -> float:
        return float((~self._live(found)).double().mean())

    def _dead_beside(self, color: HigherMoments, width: int) -> float:
        """Share of dead channels of a latent that holds the colours and nothing else."""
        return max(0.0, 1 - float(self._live(color).sum()) / width)

    def _kurtosis(self, found: HigherMoments) -> float:
        return float(found.excess_kurtosis[self._live(found)].abs().mean())


def _ranks(latent: Sequence[HigherMoments], color: Sequence[HigherMoments]) -> dict[str, Score]:
    """`effective_rank`, whose `also` has the spectrum in few numbers, and `participation_ratio`."""
    spectra, of_colors = ([spectrum(m.moments.scatter) for m in found] for found in (latent, color))
    values, std, count = spectra[0], latent[0].variance.sqrt(), int(latent[0].moments.count)
    live = std > LEAST_DEVIATION
    correlation = latent[0].moments.scatter[live][:, live] / torch.outer(std[live], std[live])
    white = white_spectrum(count - 1, len(values))
    shares = (values / values.sum())[:SHARES].tolist()
    about = {
        WHITE: effective_rank(white),
        "of normalised channels": effective_rank(spectrum(correlation)),
        "channels": len(values),
        "vectors": count,
        "dimensions of 90 % of the variance": dimensions(values, 0.9),
        "dimensions of 99 % of the variance": dimensions(values, 0.99),
        **{f"share of dimension {number}": share for number, share in enumerate(shares, 1)},
    }
    rank, ratio = effective_rank, participation_ratio
    return {
        "effective_rank": _score(_estimate(spectra, rank), COLORS, _estimate(of_colors, rank), also=about),
        "participation_ratio": _score(
            _estimate(spectra, ratio), COLORS, _estimate(of_colors, ratio), also={WHITE: ratio(white)}
        ),
    }


def _rankme(found: Mapping[str, Sequence[HigherMoments]]) -> Score:
    def figure(one: HigherMoments) -> float:
        return rankme(spectrum(uncentred(one.moments)))

    pooled = found["pooled"]
    images, width = int(pooled[0].moments.count), len(pooled[0].third)
    few = f"there are fewer images than channels: it is at most {images}"
    score = _score(
        _estimate(pooled, figure),
        COLORS,
        _estimate(found["pooled_color"], figure),
        also={WHITE: rankme(white_spectrum(images, width)), "of all positions": figure(found["latent"][0])},
        notes=(few,) if images < width else (),
    )
    if score.bounds is None or images >= width:
        return score
    low, high = score.bounds
    return replace(score, interval=(low, max(score.value, min(high, images))))


def _gap(latent: Sequence[HigherMoments], mean: Tensor, std: Tensor) -> Score:
    """Divergence of the measured Gaussians from the artefact's, beside that from standard ones."""

    def gap(found: HigherMoments, mean: Tensor = mean, std: Tensor = std) -> float:
        return gaussian_gap(found.moments.mean, found.variance.sqrt(), mean, std)

    def standard(found: HigherMoments) -> float:
        return gap(found, torch.zeros_like(mean), torch.ones_like(std))

    shift, ratio = (latent[0].moments.mean - mean).abs() / std, latent[0].variance.sqrt() / std
    also = {
        "largest shift of a mean, deviations": float(shift.max()),
        "least ratio of deviations": float(ratio.min()),
        "largest ratio of deviations": float(ratio.max()),
    }
    return _score(_estimate(latent, gap), NO_STATISTICS, _estimate(latent, standard), also=also)


def _estimate(found: Sequence[_T], figure: Callable[[_T], float]) -> Estimate:
    """A figure of what was found in the whole set and without each group."""
    value, *without = (figure(one) for one in found)
    return Estimate(value=value, without=without)


def _score(
    own: Estimate, name: str, other: Estimate, *, also: Mapping[str, float], notes: Sequence[str] = ()
) -> Score:
    baseline = Baseline(value=other.value, error=own.error_against(other))
    return Score(value=own.value, baselines={name: baseline}, error=own.error, also=also, notes=notes)


def _by_channel(name: str, values: Tensor) -> dict[str, float]:
    return {f"{name} of channel {channel}": value for channel, value in enumerate(values.tolist())}
