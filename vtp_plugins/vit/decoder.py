"""The `vit` decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from vtp_core.decoder import Decoder
from vtp_core.ops import AttentionChoice, resample_pixels
from vtp_core.parameters import Dims, Resampler
from vtp_plugins.vit.attention import CropRows, Layout
from vtp_plugins.vit.block import Block, initialize
from vtp_plugins.vit.config import VitDecoderConfig
from vtp_plugins.vit.norm import make_norm
from vtp_plugins.vit.rope import AxialRope


class VitDecoder(Decoder):
    """Vision transformer on the latent map, without class token; each position becomes a square of pixels.

    Attributes:
        upscale: Pixels a latent position side.
    """

    def __init__(self, config: VitDecoderConfig, dims: Dims) -> None:
        super().__init__()
        self.config = config
        self.value_range = config.value_range
        self.upscale = config.upscale or dims.patch
        self.proj_in = nn.Conv2d(dims.channels, config.width, kernel_size=1)
        self.rope_embed = AxialRope(
            config.head_width, base=config.rope_base, dtype=config.rope_dtype, saved=config.rope_periods_saved
        )
        # Not named `blocks`, which is a method of the interface.
        self.block = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = make_norm(config.norm, config.width)
        self.proj_out = nn.Conv2d(config.width, 3 * self.upscale**2, kernel_size=1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws all initial values from torch's global generator (after `to_empty`, say)."""
        self.apply(initialize)

    def use_attention(self, implementation: AttentionChoice) -> None:
        """Sets which attention implementation all blocks use (`vtp_core.ops.attention_choice`)."""
        for block in self.modules():
            if isinstance(block, Block):
                block.attn.implementation = implementation

    def blocks(self) -> Sequence[nn.Module]:
        """The transformer blocks, first to last."""
        return list(self.block)

    def last_layer(self) -> nn.Module:
        """The 1 x 1 convolution before the pixel shuffle."""
        return self.proj_out

    def resamplers(self) -> Mapping[str, Resampler]:
        """The last layer, which makes the pixels of a position."""
        return {"proj_out.weight": resample_pixels, "proj_out.bias": resample_pixels}

    def forward(self, z: Tensor) -> Tensor:
        """(B, d, h, w) to (B, 3, h * upscale, w * upscale) in `value_range`, unclamped."""
        rows, _, height, width = z.shape
        dtype = self.proj_in.weight.dtype
        x = self.proj_in(z).to(dtype).flatten(2).transpose(1, 2)
        layout = Layout([CropRows(rows, height * width, self.rope_embed((height, width), x))])
        x = x.flatten(0, 1)
        for block in self.block:
            x = block(x, layout)
        x = self.norm(x).view(rows, height, width, self.config.width).permute(0, 3, 1, 2)
        # Under autocast the image still leaves in the parameters' dtype, for the losses.
        return F.pixel_shuffle(self.proj_out(x).to(dtype), self.upscale)
