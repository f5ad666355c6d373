"""The `rae` decoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vtp_core.decoder import Decoder
from vtp_core.errors import UsageError
from vtp_core.parameters import Dims
from vtp_core.pixels import UNIT
from vtp_plugins.rae.config import RaeDecoderConfig
from vtp_plugins.rae.layers import Block, initialize


class RaeDecoder(Decoder):
    """Vision transformer with a class token and stored positions; each token becomes a square of pixels.

    It first undoes the statistics of the bottleneck, of which it has its own copy. Images are in [0, 1].

    Attributes:
        mean: (D, g, g); None without statistics.
        var: (D, g, g).
    """

    mean: Tensor | None
    var: Tensor | None
    value_range = UNIT

    def __init__(self, config: RaeDecoderConfig, dims: Dims) -> None:
        super().__init__()
        self.config, self.patch = config, dims.patch
        shape = (dims.channels, config.grid, config.grid) if config.normalized else None
        self.register_buffer("mean", None if shape is None else torch.zeros(shape))
        self.register_buffer("var", None if shape is None else torch.ones(shape))
        self.embed = nn.Linear(dims.channels, config.width)
        self.cls_token = nn.Parameter(torch.empty(1, 1, config.width))
        self.positions = nn.Parameter(torch.empty(1, 1 + config.grid**2, config.width))
        # Not named `blocks`, which is a method of the interface.
        self.block = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=config.eps)
        self.pred = nn.Linear(config.width, 3 * dims.patch**2)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws all initial values from torch's global generator (after `to_empty`, say)."""
        initialize(self)
        for tokens in (self.cls_token, self.positions):
            nn.init.trunc_normal_(tokens, std=0.02)

    def blocks(self) -> Sequence[nn.Module]:
        """The transformer blocks, first to last."""
        return list(self.block)

    def last_layer(self) -> nn.Module:
        """The linear layer to pixels."""
        return self.pred

    def forward(self, z: Tensor) -> Tensor:
        """(B, D, g, g) to (B, 3, g * patch, g * patch), nominally in [0, 1], unclamped.

        Raises:
            UsageError: Another grid than that of the stored positions.
        """
        grid = self.config.grid
        if z.shape[2:] != (grid, grid):
            raise UsageError(f"rae: it decodes latents of {grid} x {grid}, these are {tuple(z.shape[2:])}")
        if self.mean is not None and self.var is not None:
            z = z * (self.var + self.config.latent_eps).sqrt() + self.mean
        logits = self.logits(z.flatten(2).transpose(1, 2))
        image = logits.unflatten(2, (self.patch, self.patch, 3)).unflatten(1, (grid, grid))
        image = image.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)
        mean, std = (
            torch.tensor(values, dtype=image.dtype, device=image.device).view(3, 1, 1)
            for values in (self.config.image_mean, self.config.image_std)
        )
        return image * std + mean

    def logits(self, tokens: Tensor) -> Tensor:
        """Encoder tokens (B, N, D) to the pixels of each patch (B, N, patch * patch * 3), normalised."""
        dtype = self.positions.dtype
        x = self.embed(tokens).to(dtype)
        x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), 1) + self.positions
        for block in self.block:
            x = block(x).to(dtype)
        # Under autocast the image still leaves in the parameters' dtype, for the losses.
        pixels: Tensor = self.pred(self.norm(x)).to(dtype)
        return pixels[:, 1:]
