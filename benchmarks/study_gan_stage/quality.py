"""A plugin of one file, the evaluator `quality.distances`: how a network tells reconstructions from images.

``vtp run --plugin benchmarks/study_gan_stage/quality.py`` loads it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from vtp_core.config import ComponentConfig
from vtp_core.evaluation.evaluator import Evaluator, Observation
from vtp_core.evaluation.intervals import score_of
from vtp_core.evaluation.protocol import Metric, Score
from vtp_core.features import Tally
from vtp_core.plugins import hookimpl
from vtp_core.plugins.hookspecs import Register
from vtp_core.tokenizer import Tokenizer
from vtp_plugins.evaluate_frechet.metric import Moments, frechet_distance
from vtp_plugins.perceptual.loss import feature_distance
from vtp_plugins.perceptual.network import build_network
from vtp_plugins.pretrained.networks import resized

vtp_api = 2


class DistancesConfig(ComponentConfig):
    """A table ``[evaluators.NAME]`` with ``use = "quality.distances"``."""

    use: str = "quality.distances"
    """This evaluator."""
    network: str = "timm:tf_efficientnet_lite0"
    """Network whose features are compared, as of the objective `perceptual`."""
    weights: str | None = None
    """As of the objective `perceptual`."""
    side: Annotated[int, Field(ge=32)] = 96
    """Side to which images are resized first."""


class Distances(Evaluator):
    """Perceptual distance an image, and Fréchet distance between all images and all reconstructions.

    The baseline is each image's own mean colour.
    """

    requires = frozenset({"encode", "decode"})
    metrics = {
        "perceptual": Metric(title="Perceptual distance", higher_is_better=False),
        "frechet": Metric(
            title="Fréchet distance", higher_is_better=False, digits=1, baseline_name="mean colour"
        ),
    }
    config: DistancesConfig

    def __init__(self, config: DistancesConfig) -> None:
        super().__init__(config)
        self._network = build_network(config.network, config.weights)
        self._moments: dict[str, Moments] = {}
        self._distances: list[Tensor] = []

    @property
    def protocol(self) -> str:
        """Name, version and settings."""
        where = self._network.fingerprint or "random"
        return f"distances-v1 ({self.config.network}, weights {where}, {self.config.side} px, 8 bit)"

    def begin(self, model: Tokenizer, classes: Sequence[str]) -> None:
        """Resets its counts, and moves the network to the tokenizer's device."""
        self._network.to(model.device)
        channels = self._network.features(torch.zeros(1, 3, 64, 64, device=model.device))[-1].shape[1]
        self._moments = {name: Moments(channels) for name in ("image", "output", "flat")}
        self._distances = []

    def update(self, seen: Observation) -> None:
        """Counts a held-out batch."""
        image = seen.image.float()
        shown = {
            "image": image,
            "output": seen.reconstruction.float(),
            "flat": image.mean((2, 3), keepdim=True).round().expand_as(image),
        }
        maps = {name: self._maps(pixels) for name, pixels in shown.items()}
        for name, features in maps.items():
            self._moments[name].add(features[-1].mean((2, 3)))
        heads = self._network.heads()
        scores = [feature_distance(maps[name], maps["image"], heads).double() for name in ("output", "flat")]
        self._distances.append(torch.stack(scores, 1).cpu())

    def _maps(self, pixels: Tensor) -> list[Tensor]:
        return self._network.features(resized(pixels / 127.5 - 1, self.config.side))

    def state(self) -> Tally:
        """Sums over images, and each image's distances."""
        distances = torch.cat([torch.zeros(0, 2, dtype=torch.float64), *self._distances])
        moments = {name: found.sums for name, found in self._moments.items()}
        return Tally(sums=moments, rows={"distances": distances})

    def compute(self, state: Tally) -> Mapping[str, Score]:
        """`perceptual` and `frechet`."""
        channels = self._moments["image"].channels
        found = {name: Moments(channels, state.sums[name]).mean_and_covariance() for name in self._moments}
        own, flat = state.rows["distances"].unbind(1)
        return {
            "perceptual": score_of(own, {"mean colour": flat}),
            "frechet": Score(
                value=frechet_distance(found["output"], found["image"]),
                baseline=frechet_distance(found["flat"], found["image"]),
            ),
        }


@hookimpl
def register_evaluators(register: Register) -> None:
    """Registers `quality.distances`."""
    register(
        "distances",
        f"{__name__}:Distances",
        config=f"{__name__}:DistancesConfig",
        summary="Perceptual and Fréchet distance of reconstructions on a timm network.",
    )
