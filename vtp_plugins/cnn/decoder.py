"""The `cnn` decoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtp_core.decoder import Decoder
from vtp_core.parameters import Dims
from vtp_plugins.cnn.config import CnnDecoderConfig
from vtp_plugins.cnn.layers import Block, Double, conv, initialize, norm
from vtp_plugins.cnn.strips import HOST, Strips, check_no_gradient


class CnnDecoder(Decoder):
    """Convolutional decoder of latent diffusion (Rombach et al. 2022), its 1 x 1 convolution included.

    Raises:
        ValueError: Another reduction than the encoder's.
    """

    has_strips = True

    def __init__(self, config: CnnDecoderConfig, dims: Dims) -> None:
        super().__init__()
        if config.patch != dims.patch:
            raise ValueError(
                f"cnn: {len(config.multipliers)} multipliers enlarge by {config.patch}, but the encoder's "
                f"patch is {dims.patch}"
            )
        self.config = config
        self.value_range = config.value_range
        channels = config.level_channels[::-1]
        self.quant = nn.Conv2d(dims.channels, dims.channels, kernel_size=1)
        self.conv_in = conv(dims.channels, channels[0])
        # Not named `blocks`, which is a method of the interface.
        self.block = nn.ModuleList()
        self.up = nn.ModuleList(Double(outputs) for outputs in channels[:-1])
        self.block.append(Block(channels[0], channels[0], attention=True))
        self.block.append(Block(channels[0], channels[0], attention=False))
        inputs = channels[0]
        for level, outputs in enumerate(channels):
            reduction = 2 ** (len(channels) - 1 - level)
            for _ in range(config.residual_blocks + 1):
                self.block.append(Block(inputs, outputs, attention=reduction in config.attention))
                inputs = outputs
        self.norm = norm(inputs)
        self.conv_out = conv(inputs, 3)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws all initial values from torch's global generator (after `to_empty`, say)."""
        initialize(self)

    def blocks(self) -> Sequence[nn.Module]:
        """The residual blocks with their attention, first to last."""
        return list(self.block)

    def last_layer(self) -> nn.Module:
        """The convolution to three channels."""
        return self.conv_out

    def order(self) -> list[nn.Module]:
        """The residual blocks and what doubles the map, as they are run."""
        layers: list[nn.Module] = []
        for number, block in enumerate(self.block):
            layers.append(block)
            # The first two blocks belong to no level.
            level, place = divmod(number - 1, self.config.residual_blocks + 1)
            if number > 1 and place == 0 and level <= len(self.up):
                layers.append(self.up[level - 1])
        return layers

    def forward(self, z: Tensor) -> Tensor:
        """(B, d, h, w) to (B, 3, h * patch, w * patch) in `value_range`, unclamped."""
        x = self.conv_in(self.quant(z))
        image: Tensor
        if self.strip_rows is not None:
            check_no_gradient(self, z)
            with torch.no_grad():
                strips = Strips(self.strip_rows, z.device)
                x = strips.run(self.order(), x.to(HOST))
                image = strips.convolve(x, self.conv_out, self.norm).to(z.device)
        else:
            for layer in self.order():
                x = layer(x)
            image = self.conv_out(F.silu(self.norm(x)))
        # Under autocast the image still leaves in the parameters' dtype, for the losses.
        return image.to(self.conv_out.weight.dtype)
