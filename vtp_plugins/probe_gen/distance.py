"""Distances of sets of images to the real ones, on the features of a frozen network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from vtp_core.errors import NumericError
from vtp_core.evaluation.jackknife import Estimate
from vtp_plugins.evaluate_frechet.comparison import frechet_estimates
from vtp_plugins.evaluate_frechet.metric import Moments, frechet_distance, kernel_distance
from vtp_plugins.evaluate_frechet.network import PooledFeatures
from vtp_plugins.probe_gen.config import ProbeSettings
from vtp_plugins.probe_gen.record import Distance

PARTS = 20
"""Parts of a set that the jackknife of the kernel distance leaves out in turn."""
FRECHET_PARTS = 4
"""Those of the Fréchet distance; each costs a distance."""


class Meter:
    """Features of images, and distances of their sets."""

    def __init__(self, settings: ProbeSettings, device: torch.device) -> None:
        self._network = PooledFeatures(settings.network, settings.weights, settings.resize).to(device)
        self._name = settings.network

    @property
    def about(self) -> str:
        """Network, weights and size, as protocols name them."""
        network = self._network
        return f"{self._name}, weights {network.fingerprint}, {network.side} px bilinear, 8 bit"

    def load(self) -> None:
        """Reads the network's weights, once.

        Raises:
            UsageError: They are not found or don't fit.
        """
        self._network.load()

    def to(self, device: torch.device) -> None:
        """Moves the network."""
        self._network.to(device)

    def features(self, images: Iterable[Tensor]) -> Tensor:
        """Features (n, F) float32 on the CPU of batches (B, 3, H, W) uint8.

        Raises:
            NumericError: A feature is not finite.
        """
        rows = torch.cat([self._network(batch).cpu() for batch in images])
        if not bool(rows.isfinite().all()):
            raise NumericError(f"features of {self._name} are not finite; check its weights")
        return rows

    def distance(self, made: Tensor, real: Tensor, *, paired: bool = False) -> Distance:
        """Distances of two sets of features (n, F).

        Args:
            made: Features of what is judged.
            real: Features of real images.
            paired: Whether row i of `made` is a reconstruction of row i of `real`.

        Returns:
            Without the Fréchet distance if a set has fewer than F + 1 images: a covariance would be singular.
        """
        kernel = self.kernel(made, real, paired=paired)
        enough = self.has_covariances(made, real)
        return Distance(
            kernel=kernel.value,
            kernel_error=kernel.error,
            frechet=frechet_distance(_moments(made), _moments(real)) if enough else None,
        )

    def kernel(self, made: Tensor, real: Tensor, *, paired: bool = False) -> Estimate:
        """Kernel distance with its values without each part of `made`; arguments as of `distance`."""
        parts = torch.arange(len(made)) % PARTS
        return kernel_distance(made, real, parts, parts if paired else None, paired=paired)

    def frechet(self, made: Mapping[str, Tensor], real: Tensor) -> dict[str, Estimate]:
        """Fréchet distances of sets (n, F) to `real`, with their values without each part of a set."""
        sums = {
            name: torch.stack([_sums(rows[part::FRECHET_PARTS]) for part in range(FRECHET_PARTS)])
            for name, rows in made.items()
        }
        return frechet_estimates(_moments(real), sums, self._network.width)

    def has_covariances(self, *sets: Tensor) -> bool:
        """Whether sets have more images than features: else a covariance is singular."""
        return min(map(len, sets)) > self._network.width


def _moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    return Moments(rows.shape[1], _sums(rows)).mean_and_covariance()


def _sums(rows: Tensor) -> Tensor:
    moments = Moments(rows.shape[1])
    moments.add(rows)
    return moments.sums
