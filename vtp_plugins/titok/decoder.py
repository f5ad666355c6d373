"""The `titok` decoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtp_core.decoder import Decoder
from vtp_core.errors import UsageError
from vtp_core.parameters import Dims
from vtp_core.pixels import UNIT
from vtp_plugins.titok.config import TiTokDecoderConfig
from vtp_plugins.titok.layers import NORM_EPS, Block, placed_tokens, reset_tokens
from vtp_plugins.titok.pixel_decoder import PixelDecoder
from vtp_plugins.vit.block import initialize


class TiTokDecoder(Decoder):
    """N tokens and a mask token for every patch through one transformer; the patches become pixels.

    Either a 1 x 1 convolution makes the pixels of a patch and a 3 x 3 one smooths the image, or, with
    `pixels`, scores of a codebook weight its codes, which a convolutional decoder turns into the image.
    """

    value_range = UNIT

    def __init__(self, config: TiTokDecoderConfig, dims: Dims) -> None:
        super().__init__()
        self.config = config
        width, patches = config.width, config.side**2
        self.class_embedding = placed_tokens(1, width)
        self.positional_embedding = placed_tokens(1 + patches, width)
        self.mask_token = placed_tokens(1, 1, width)
        self.latent_token_positional_embedding = placed_tokens(config.tokens, width)
        self.decoder_embed = nn.Linear(dims.channels, width)
        self.ln_pre = nn.LayerNorm(width, eps=NORM_EPS)
        self.transformer = nn.ModuleList(Block(width, config.heads) for _ in range(config.depth))
        self.ln_post = nn.LayerNorm(width, eps=NORM_EPS)
        self.pixel_decoder: PixelDecoder | None = None
        self.conv_out: nn.Conv2d | None = None
        if config.pixels is None:
            self.ffn = nn.Sequential(nn.Conv2d(width, 3 * config.patch**2, kernel_size=1))
            self.conv_out = nn.Conv2d(3, 3, kernel_size=3, padding=1)
        else:
            codes = config.pixels.codes
            self.ffn = nn.Sequential(
                nn.Conv2d(width, 2 * width, kernel_size=1),
                nn.Tanh(),
                nn.Conv2d(2 * width, codes, kernel_size=1),
            )
            self.pixel_quantize = nn.Embedding(codes, config.pixels.code_width)
            self.pixel_decoder = PixelDecoder(config.pixels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws all initial values from torch's global generator (after `to_empty`, say)."""
        for module in self.modules():
            if module is not self:
                initialize(module)
        reset_tokens(*self.parameters(recurse=False))

    def blocks(self) -> Sequence[nn.Module]:
        """The blocks of the transformer."""
        return list(self.transformer)

    def last_layer(self) -> nn.Module:
        """The convolution to the image."""
        if self.pixel_decoder is not None:
            return self.pixel_decoder.conv_out
        assert self.conv_out is not None
        return self.conv_out

    def forward(self, z: Tensor) -> Tensor:
        """(B, d, 1, N) to (B, 3, size, size) in [0, 1], unclamped.

        Raises:
            UsageError: A latent of another grid.
        """
        y = self.ffn(self.hidden(z))
        if self.pixel_decoder is not None:
            codes = torch.einsum("bchw,cd->bdhw", y.softmax(1), self.pixel_quantize.weight)
            image: Tensor = self.pixel_decoder(codes)
        else:
            assert self.conv_out is not None
            patch = self.config.patch
            # The channels of a patch are row, column, color; pixel_shuffle wants the color first.
            y = y.unflatten(1, (patch * patch, 3)).transpose(1, 2).flatten(1, 2)
            image = self.conv_out(F.pixel_shuffle(y, patch))
        # Under autocast the image still leaves in the parameters' dtype, for the losses.
        return image.to(self.mask_token.dtype)

    def hidden(self, z: Tensor) -> Tensor:
        """The patches (B, D, side, side) of latents (B, d, 1, N), after the transformer and its norm."""
        count, side = self.config.tokens, self.config.side
        if z.shape[-2:] != (1, count):
            raise UsageError(
                f"titok: its latents are (B, d, 1, {count}), a row of {count} tokens; got "
                f"{tuple(z.shape)}, and no other number of tokens can be decoded"
            )
        tokens = self.decoder_embed(z.flatten(2).transpose(1, 2))
        tokens = tokens + self.latent_token_positional_embedding.to(tokens.dtype)
        masks = self.mask_token[0].expand(side * side, -1)
        patches = torch.cat([self.class_embedding, masks]) + self.positional_embedding
        x = torch.cat([patches.to(tokens.dtype).expand(z.shape[0], -1, -1), tokens], 1)
        x = self.ln_pre(x)
        for block in self.transformer:
            x = block(x)
        y: Tensor = self.ln_post(x[:, 1 : 1 + side * side])
        return y.transpose(1, 2).unflatten(2, (side, side))
