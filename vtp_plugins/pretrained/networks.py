"""Frozen feature networks: evaluation mode, timm's networks, their input size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vtp_core.errors import UsageError


class Frozen(nn.Module):
    """A module that is always in evaluation mode."""

    def train(self, mode: bool = True) -> Self:
        """Always evaluation mode; `mode` is ignored."""
        return super().train(False)


def timm_network(name: str, options: Mapping[str, Any] | None = None) -> nn.Module:
    """An untrained network of timm that returns feature maps.

    Args:
        name: timm's name.
        options: Further arguments of ``timm.create_model``.

    Raises:
        UsageError: timm can't build it, or it has no ``forward_intermediates``.
    """
    import timm

    try:
        network: nn.Module = timm.create_model(name, pretrained=False, **(options or {}))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise UsageError(f"timm can't build {name!r} ({error}); see `timm.list_models()`") from None
    if not hasattr(network, "forward_intermediates"):
        raise UsageError(
            f"timm's {name!r} gives no feature maps; choose a network with forward_intermediates"
        )
    return network


@contextmanager
def full_float32(kind: str) -> Iterator[None]:
    """Float32 without autocast, and convolutions without TF32, whose rounding moves small distances.

    Args:
        kind: Type of the device, such as ``cuda``.
    """
    cudnn = torch.backends.cudnn  # `flags` would switch it off by default
    with cudnn.flags(enabled=cudnn.enabled, allow_tf32=False), torch.autocast(kind, enabled=False):
        yield


def resized(image: Tensor, side: int | None) -> Tensor:
    """Images (B, 3, H, W) at `side` x `side` pixels, bilinear with antialiasing; None: unchanged."""
    if side is None or image.shape[-2:] == (side, side):
        return image
    return F.interpolate(image, size=(side, side), mode="bilinear", antialias=True, align_corners=False)
