"""The feature extractor: a frozen timm network up to its pooled features."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vtp_core.errors import UsageError
from vtp_plugins.pretrained.loading import load_weights
from vtp_plugins.pretrained.lookup import RANDOM, find_weights
from vtp_plugins.pretrained.networks import Frozen, resized, timm_network


class PooledFeatures(Frozen):
    """Pooled features of 8-bit images: the input of a timm network's classifier.

    Args:
        network: ``timm:<name>``.
        weights: File of its weights, ``"random"`` for an untrained network (the same one on every rank), or
            None to search for them.
        resize: Side in pixels to which images are resized; None: the network's input size.

    Attributes:
        name: ``timm:<name>``.
        side: Side in pixels to which images are resized.
        width: Number of features F.
        fingerprint: Hash of the weights, or ``"random"``.

    Raises:
        UsageError: The weights are not found or don't fit, or the network has no pooled features.
    """

    def __init__(self, network: str, weights: str | None, resize: int | None) -> None:
        super().__init__()
        self.name = network
        found = None if weights == RANDOM else find_weights(network, weights)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.network = timm_network(network.removeprefix("timm:"), {"num_classes": 0})
        if found is not None:
            load_weights(self.network, found)
        config: dict[str, Any] = self.network.pretrained_cfg  # type: ignore[assignment]
        self.side: int = resize if resize is not None else config["input_size"][-1]
        self.fingerprint = RANDOM if found is None else found.fingerprint
        self.register_buffer("mean", torch.tensor(config["mean"]).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(config["std"]).view(3, 1, 1))
        self.requires_grad_(False).eval()
        try:
            shape = self(torch.zeros(1, 3, self.side, self.side, dtype=torch.uint8)).shape
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

    @property
    def description(self) -> str:
        """The extractor in protocols."""
        features = f"{self.name}, weights {self.fingerprint}, {self.width} pooled features"
        return f"{features}, {self.side} px bilinear"

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        """(B, F) float32 features of images (B, 3, H, W) uint8."""
        unit = resized(image.float() / 255, self.side)
        features: Tensor = self.network((unit - self.get_buffer("mean")) / self.get_buffer("std"))
        return features.float()
