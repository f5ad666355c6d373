"""A trained decoder: a small transformer from vectors of positions to the pixels of an image."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from vtp_core.math.row_noise import row_rand, row_seeds
from vtp_core.parameters import Dims
from vtp_plugins.vit.config import VitDecoderConfig
from vtp_plugins.vit.decoder import VitDecoder

SIZE = VitDecoderConfig(use="vit", width=96, depth=2, heads=3, value_range=(0.0, 1.0))
"""0.2 million parameters, and a first and last layer by the vectors' and the patches' size."""
ROWS = 64
"""Images of a step, and of a call in evaluation."""
RATE, WARMUP = 1e-3, 50
"""Peak of the learning rate; it rises over the warm-up and falls by a cosine."""


class TrainedDecoder:
    """Decodes what it was trained on: vectors (B, N, D), normalised by channel.

    Args:
        vectors: (B, N, D) of the training images.
        pixels: (B, 3, S, S) uint8.
        grid: Rows and columns of the N positions.
        steps: Updates.
        seed: Of the initial weights and of the batches, the same batches for every kind of vectors.
    """

    def __init__(
        self, vectors: Tensor, pixels: Tensor, grid: tuple[int, int], *, steps: int, seed: int
    ) -> None:
        width = vectors.shape[-1]
        self._grid = grid
        self._mean = vectors.mean((0, 1))
        self._scale = 1 / vectors.std((0, 1)).clamp(min=1e-6)
        torch.manual_seed(seed)
        dims = Dims(width=width, patch=pixels.shape[-1] // grid[1], depth=1, has_cls=False, channels=width)
        self._network = VitDecoder(SIZE, dims)

        def loss(chosen: Tensor) -> Tensor:
            image = self._network(self._map(vectors[chosen]))
            return (image - pixels[chosen].float() / 255).abs().mean()

        fit([*self._network.parameters()], loss, len(vectors), steps=steps, seed=seed)

    @torch.no_grad()
    def decode(self, vectors: Tensor) -> Tensor:
        """Vectors (B, N, D) to images (B, 3, S, S) uint8."""
        parts = [self._network(self._map(part)) for part in vectors.split(ROWS)]
        return (255 * torch.cat(parts)).round().clamp(0, 255).to(torch.uint8)

    def _map(self, vectors: Tensor) -> Tensor:
        return ((vectors - self._mean) * self._scale).transpose(1, 2).unflatten(2, self._grid)


def fit(
    parameters: Sequence[nn.Parameter], loss: Callable[[Tensor], Tensor], rows: int, *, steps: int, seed: int
) -> None:
    """Trains parameters by AdamW on batches of `ROWS` of the training images.

    Args:
        parameters: What is trained.
        loss: Places of images (ROWS,) -> the loss on them.
        rows: Training images.
        steps: Updates.
        seed: Of the batches.
    """
    optimizer = torch.optim.AdamW(parameters, RATE, betas=(0.9, 0.95), weight_decay=0.01)
    for step in range(steps):
        rate = RATE * min(1.0, (step + 1) / WARMUP) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        optimizer.param_groups[0]["lr"] = rate
        chosen = (row_rand(row_seeds(1000 * (step + 1) + seed, torch.arange(ROWS))) * rows).long()
        optimizer.zero_grad()
        loss(chosen).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
