"""LightningDiT: published sizes, its block against a plain one, what a wide head changes."""

from __future__ import annotations

import pytest
import torch

from vtp_plugins.generation.config import HeadConfig, TransformerConfig
from vtp_plugins.generation.network import LightningDit


def _count(config: TransformerConfig, channels: int) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in LightningDit(config, channels, classes=1000).parameters())


@pytest.mark.parametrize(
    ("config", "channels", "more", "millions"),
    [
        # On VA-VAE's 32 channels, with the table of positions that LightningDiT keeps as a parameter.
        (TransformerConfig(preset="xl"), 32, 256 * 1152, 675),
        (TransformerConfig(preset="b"), 32, 0, 130),
        # RAE's DiT-DH-XL on DINOv2-B: a table of positions, and 512 numbers of a time instead of 256.
        (TransformerConfig(preset="xl", head=HeadConfig()), 768, 2 * 256 * 1152, 839),
    ],
)
def test_published_sizes(config: TransformerConfig, channels: int, more: int, millions: int) -> None:
    assert round((_count(config, channels) + more) / 1e6) == millions


def test_exact_sizes() -> None:
    width, hidden, depth, channels = 1152, 3072, 28, 32
    block = (
        4 * width**2
        + 4 * width
        + 3 * width * hidden
        + 2 * hidden
        + width
        + 6 * width**2
        + 6 * width
        + 2 * width
    )
    time, label = 256 * width + width + width**2 + width, 1001 * width
    final = width + 2 * width**2 + 2 * width + (width + 1) * channels
    expected = depth * block + (channels + 1) * width + time + label + final
    assert expected == 674_961_824
    assert _count(TransformerConfig(preset="xl"), channels) == expected
