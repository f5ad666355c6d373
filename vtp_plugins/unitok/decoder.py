"""The `unitok` decoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from vtp_core.decoder import Decoder
from vtp_core.parameters import Dims
from vtp_core.pixels import SIGNED
from vtp_plugins.unitok.config import STRIDE, UniTokDecoderConfig
from vtp_plugins.unitok.layers import EPS, Block, ConvBlock, Double, MapNorm, Projection
from vtp_plugins.vit.block import initialize


class Head(nn.Module):
    """Doubles the map, then a norm and a convolution to three channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = Double(width, width)
        self.norm1 = MapNorm(width)
        self.conv2 = nn.Conv2d(width, 3, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to (B, 3, 2 h, 2 w)."""
        y: Tensor = self.conv2(F.gelu(self.norm1(self.conv1(x))))
        return y


class UniTokDecoder(Decoder):
    """The attention projection back to the width, transformer blocks, then ViTamin's convolutions in reverse.

    Raises:
        ValueError: The encoder's patch is not 16, or the width is no multiple of the latent's channels.
    """

    value_range = SIGNED

    def __init__(self, config: UniTokDecoderConfig, dims: Dims) -> None:
        super().__init__()
        if dims.patch != STRIDE:
            raise ValueError(f"unitok: enlarges by {STRIDE}, but the encoder's patch is {dims.patch}")
        self.config = config
        fine, coarse = config.widths
        self.post_quant_proj = Projection(dims.channels, config.width)
        # Not named `blocks`, which is a method of the interface.
        self.block = nn.ModuleList(
            Block(config.width, config.heads, config.hidden) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width, eps=EPS)
        self.up_conv1 = Double(config.width, coarse)
        self.up_conv2 = nn.Sequential(
            *(ConvBlock(coarse, coarse, doubles=number == 0) for number in range(config.stages[0]))
        )
        self.up_conv3 = nn.Sequential(
            *(
                ConvBlock(coarse if number == 0 else fine, fine, doubles=number == 0)
                for number in range(config.stages[1])
            )
        )
        self.up_conv4 = Head(fine)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws all initial values from torch's global generator (after `to_empty`, say)."""
        self.apply(lambda module: None if module is self else initialize(module))

    def blocks(self) -> Sequence[nn.Module]:
        """The blocks of the transformer, then those of convolutions."""
        return [*self.block, *self.up_conv2, *self.up_conv3]

    def last_layer(self) -> nn.Module:
        """The convolution to three channels."""
        return self.up_conv4.conv2

    def forward(self, z: Tensor) -> Tensor:
        """(B, d, h, w) to (B, 3, 16 h, 16 w) in [-1, 1], unclamped."""
        x = self.post_quant_proj(z.flatten(2).transpose(1, 2))
        for block in self.block:
            x = block(x)
        x = self.norm(x).transpose(1, 2).unflatten(2, z.shape[-2:])
        for layer in (self.up_conv1, self.up_conv2, self.up_conv3, self.up_conv4):
            x = layer(x)
        # Under autocast the image still leaves in the parameters' dtype, for the losses.
        image: Tensor = x.to(self.up_conv4.conv2.weight.dtype)
        return image
