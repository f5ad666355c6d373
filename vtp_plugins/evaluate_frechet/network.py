"""The feature extractor: a frozen timm network up to its pooled features."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor

from vtp_core.errors import UsageError
from vtp_plugins.pretrained.loading import load_weights
from vtp_plugins.pretrained.lookup import RANDOM, find_weights
from vtp_plugins.pretrained.networks import Frozen, full_float32, resized, timm_network


class PooledFeatures(Frozen):
    """Pooled features of 8-bit images: the input of a timm network's classifier.

    The constructor reads no weights: `load` does, or whatever needs them first.

    Args:
        network: ``timm:<name>``.
        weights: File of its weights, ``"random"`` for an untrained network (the same one on every rank), or
            None to search for them.
        resize: Side in pixels to which images are resized; None: the network's input size.

    Attributes:
        name: ``timm:<name>``.
        side: Side in pixels to which images are resized.
        width: Number of features F.
        untrained: Whether it stays untrained.

    Raises:
        UsageError: The network has no pooled features.
    """

    def __init__(self, network: str, weights: str | None, resize: int | None) -> None:
        super().__init__()
        self.name, self._weights = network, weights
        self.untrained = weights == RANDOM
        self._fingerprint = RANDOM if self.untrained else ""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.network = timm_network(network.removeprefix("timm:"), {"num_classes": 0})
        config: dict[str, Any] = self.network.pretrained_cfg  # type: ignore[assignment]
        self.side: int = resize if resize is not None else config["input_size"][-1]
        self.register_buffer("mean", torch.tensor(config["mean"]).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(config["std"]).view(3, 1, 1))
        self.requires_grad_(False).eval()
        try:
            shape = self._features(torch.zeros(1, 3, self.side, self.side, dtype=torch.uint8)).shape
        except (RuntimeError, AssertionError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UsageError(
                f"{network} can't read images of {self.side} px ({reason}); set `resize`"
            ) from None
        if len(shape) != 2:
            raise UsageError(
                f"{network} has no pooled features, its output is {tuple(shape)}; choose another"
            )
        self.width = shape[1]

    def load(self) -> Self:
        """Reads the weights, once.

        Raises:
            UsageError: They are not found or don't fit.
        """
        if not self._fingerprint:
            found = find_weights(self.name, self._weights)
            load_weights(self.network, found)
            self.network.requires_grad_(False).to(self.get_buffer("mean").device)
            self._fingerprint = found.fingerprint
        return self

    @property
    def fingerprint(self) -> str:
        """Hash of the weights, or ``"random"``."""
        return self.load()._fingerprint

    @property
    def description(self) -> str:
        """The extractor in protocols."""
        features = f"{self.name}, weights {self.fingerprint}, {self.width} pooled features"
        return f"{features}, {self.side} px bilinear"

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        """(B, F) float32 features of images (B, 3, H, W) uint8."""
        self.load()
        with full_float32(image.device.type):
            return self._features(image)

    def _features(self, image: Tensor) -> Tensor:
        unit = resized(image.float() / 255, self.side)
        features: Tensor = self.network((unit - self.get_buffer("mean")) / self.get_buffer("std"))
        return features.float()
