"""Distances of sets of images to the real ones, on the features of a frozen network."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from vtp_core.errors import NumericError
from vtp_plugins.evaluate_frechet.metric import Moments, frechet_distance, kernel_distance
from vtp_plugins.evaluate_frechet.network import PooledFeatures
from vtp_plugins.probe_gen.config import ProbeSettings
from vtp_plugins.probe_gen.record import Distance

PARTS = 20
"""Parts of a set that the jackknife of the kernel distance leaves out in turn."""


class Meter:
    """Features of images, and distances of their sets.

    Attributes:
        about: Network, weights and size, as protocols name them.
    """

    def __init__(self, settings: ProbeSettings, device: torch.device) -> None:
        self._network = PooledFeatures(settings.network, settings.weights, settings.resize).to(device)
        self._name = settings.network
        weights = self._network.fingerprint
        self.about = f"{settings.network}, weights {weights}, {self._network.side} px bilinear, 8 bit"

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
        enough = min(len(made), len(real)) > self._network.width
        parts = torch.arange(len(made)) % PARTS
        kernel = kernel_distance(made, real, parts, parts if paired else None, paired=paired)
        return Distance(
            kernel=kernel.value,
            kernel_error=kernel.error,
            frechet=frechet_distance(_moments(made), _moments(real)) if enough else None,
        )


def _moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    moments = Moments(rows.shape[1])
    moments.add(rows)
    return moments.mean_and_covariance()
