"""The residual branch: a small encoder beside the frozen one, trained together with a decoder (SVG)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.study.trained_decoder import ROWS, SIZE, fit
from benchmarks.study_branches.config import ResidualConfig
from benchmarks.study_branches.features import Split
from vtp_core.parameters import Dims
from vtp_core.pixels import normalize
from vtp_plugins.vit.config import VitEncoderConfig
from vtp_plugins.vit.decoder import VitDecoder
from vtp_plugins.vit.encoder import VitEncoder


class ResidualBranch(nn.Module):
    """Tokens of a transformer on the native pixels; it learns what the decoder lacks beside the deep tokens.

    Args:
        config: Sizes and steps.
        train: Training images.
        seed: Of the initial weights and of the batches.
    """

    def __init__(self, config: ResidualConfig, train: Split, seed: int) -> None:
        super().__init__()
        patch = train.pixels.shape[-1] // train.grid[1]
        torch.manual_seed(seed)
        sizes = {"width": config.width, "depth": config.depth, "heads": config.heads}
        self.encoder = VitEncoder(VitEncoderConfig(use="vit", patch=patch, cls_token=False, **sizes))
        deep = train.patches.float()
        channels = deep.shape[-1] + config.width
        dims = Dims(width=channels, patch=patch, depth=1, has_cls=False, channels=channels)
        decoder = VitDecoder(SIZE, dims)
        mean, scale = deep.mean((0, 1)), 1 / deep.std((0, 1)).clamp(min=1e-6)

        def loss(chosen: Tensor) -> Tensor:
            both = torch.cat([(deep[chosen] - mean) * scale, self(train.pixels[chosen])], -1)
            image = decoder(both.transpose(1, 2).unflatten(2, train.grid))
            return (image - train.pixels[chosen].float() / 255).abs().mean()

        parameters = [*self.encoder.parameters(), *decoder.parameters()]
        with torch.enable_grad():
            fit(parameters, loss, len(deep), steps=config.steps, seed=seed)

    def forward(self, pixels: Tensor) -> Tensor:
        """Images (B, 3, S, S) uint8 to tokens (B, N, width)."""
        images = normalize(pixels.float() / 255)[:, None]
        found: Tensor = self.encoder([images], [None], layers=(), drop_path=0.0)[0].patches
        return found[:, 0]

    @torch.no_grad()
    def tokens(self, split: Split) -> Tensor:
        """Of all images, (B, N, width)."""
        return torch.cat([self(part) for part in split.pixels.split(ROWS)])
