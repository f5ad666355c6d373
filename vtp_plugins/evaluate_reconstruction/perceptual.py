"""LPIPS of 8-bit images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vtp_plugins.perceptual.loss import feature_distance
from vtp_plugins.perceptual.network import FrozenNetwork, build_network
from vtp_plugins.pretrained.lookup import RANDOM
from vtp_plugins.pretrained.networks import full_float32

LEAST_SIDE = 32
"""Smallest images in pixels that every trunk can read."""


def lpips_network(name: str, weights: str | None) -> FrozenNetwork:
    """The network of LPIPS; an untrained one is the same on every rank.

    Raises:
        UsageError: The weights are not found or don't fit.
    """
    if weights != RANDOM:
        return build_network(name, weights, key="lpips_weights")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_network(name, weights)


def lpips(network: FrozenNetwork, images: Sequence[Tensor], reference: Tensor) -> list[Tensor]:
    """LPIPS of several lists of images, (B,) float64 each, from float32 features.

    Args:
        network: What `lpips_network` returned, on the images' device.
        images: (B, 3, H, W) uint8 each; H and W at least 32.
        reference: The same shape; its features are computed once.

    Source:
        Zhang et al. 2018, equation 1.
    """
    with full_float32(reference.device.type):
        targets, heads = network.features(_signed(reference)), network.heads()
        return [
            feature_distance(network.features(_signed(image)), targets, heads).double() for image in images
        ]


def _signed(image: Tensor) -> Tensor:
    return image.float() / 127.5 - 1
