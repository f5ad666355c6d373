"""What the decoder sees of a latent in training: noise, then masks."""

from __future__ import annotations

import torch
from torch import Tensor

from vtp_core.math.row_noise import row_rand, row_randn
from vtp_plugins.fusion.config import ChainConfig


def disturbed(z: Tensor, seeds: Tensor, config: ChainConfig, std: Tensor | None = None) -> Tensor:
    """The latent with noise and masked positions; itself if the chain is empty.

    Args:
        z: (B, d, h, w), normalised if `std` is given.
        seeds: (B,) int64 seeds of the rows.
        config: Largest deviation of the noise, and largest fraction of masked positions.
        std: (d,) deviation that `z` was divided by; the noise is in units of the latent before that.

    Source: RAE (noise of deviation U(0, tau) before normalisation); l-DeTok (masked positions: there a
    learned token, here the mean).
    """
    if config.noise:
        sigma = config.noise * row_rand(seeds, 1, 1, 1, draw=0, dtype=z.dtype)
        noise = row_randn(seeds, *z.shape[1:], draw=1, dtype=z.dtype)
        z = z + sigma * (noise if std is None else noise / std.to(z.dtype).view(-1, 1, 1))
    if config.mask:
        fraction = config.mask * row_rand(seeds, 1, 1, 1, draw=2, dtype=z.dtype)
        masked = row_rand(seeds, 1, *z.shape[2:], draw=3, dtype=z.dtype) < fraction
        z = torch.where(masked, 0, z)
    return z
