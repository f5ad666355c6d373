"""The `titok` encoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vtp_core.encoder import Encoder
from vtp_core.errors import UsageError
from vtp_core.features import Tokens
from vtp_core.pixels import UNIT, convert
from vtp_plugins.titok.config import TiTokEncoderConfig
from vtp_plugins.titok.layers import NORM_EPS, Block, placed_tokens, reset_tokens
from vtp_plugins.vit.block import initialize


class TiTokEncoder(Encoder):
    """Patches and N learned tokens through one transformer; only the N tokens leave it.

    They have no places in the image: the grid is (1, N). No class token and no mask token. The published
    1 x 1 convolution behind it is the linear layer of the bottlenecks `vq` and `kl`.
    """

    has_cls = False

    def __init__(self, config: TiTokEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.width, self.patch, self.depth = config.width, config.patch, config.depth
        self.only_size = (config.size, config.size)
        width = config.width
        self.latent_tokens = placed_tokens(config.tokens, width)
        self.class_embedding = placed_tokens(1, width)
        self.positional_embedding = placed_tokens(1 + config.side**2, width)
        self.latent_token_positional_embedding = placed_tokens(config.tokens, width)
        self.patch_embed = nn.Conv2d(3, width, kernel_size=config.patch, stride=config.patch)
        self.ln_pre = nn.LayerNorm(width, eps=NORM_EPS)
        self.transformer = nn.ModuleList(Block(width, config.heads) for _ in range(config.depth))
        self.ln_post = nn.LayerNorm(width, eps=NORM_EPS)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws all initial values from torch's global generator (after `to_empty`, say)."""
        for module in self.modules():
            if module is not self:
                initialize(module)
        reset_tokens(*self.parameters(recurse=False))

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """(1, N): one row of tokens."""
        return 1, self.config.tokens

    def blocks(self) -> Sequence[nn.Module]:
        """The blocks of the transformer."""
        return list(self.transformer)

    def forward(
        self,
        images: list[Tensor],
        masks: list[Tensor | None],
        *,
        layers: tuple[int, ...] = (),
        drop_path: float = 0.0,
    ) -> list[Tokens]:
        """Tokens of all crop sets, one set after the other; see `vtp_core.encoder.Encoder.forward`.

        Raises:
            UsageError: A mask, which this network can't serve, or images of another size.
        """
        if any(mask is not None for mask in masks):
            raise UsageError("titok: it has no mask token to hide patches with; use the encoder vit")
        return [self._encode(image, layers, drop_path) for image in images]

    def _encode(self, image: Tensor, layers: tuple[int, ...], drop_path: float) -> Tokens:
        """(B, C, 3, H, W) to the tokens of one crop set."""
        if image.shape[-2:] != self.only_size:
            height, width = image.shape[-2:]
            side = self.config.size
            raise UsageError(
                f"titok: its positions are fixed for {side} x {side} pixels, got {height} x {width}; crop "
                "the images, which preprocess() does"
            )
        x = convert(image.flatten(0, 1), "imagenet", UNIT)
        patches = self.patch_embed(x).flatten(2).transpose(1, 2)
        rows, count = patches.shape[0], self.config.tokens
        x = torch.cat([self.class_embedding.to(patches.dtype).expand(rows, 1, -1), patches], 1)
        x = x + self.positional_embedding.to(x.dtype)
        tokens = self.latent_tokens + self.latent_token_positional_embedding
        x = self.ln_pre(torch.cat([x, tokens.to(x.dtype).expand(rows, -1, -1)], 1))
        taps: dict[int, Tensor] = {}
        for number, block in enumerate(self.transformer):
            x = block(x, drop_path)
            if number in layers:
                taps[number] = self._leaving(x[:, -count:], image)
        y = self.ln_post(x[:, -count:])
        if self.config.legacy:
            # Published so: the memory of (N, D) is read as (D, N).
            y = y.reshape(rows, self.width, count).transpose(1, 2)
        return Tokens(patches=self._leaving(y, image), grid=(1, count), layers=taps)

    def _leaving(self, tokens: Tensor, image: Tensor) -> Tensor:
        """(B * C, N, D) as (B, C, N, D) in the parameters' dtype; a copy, as sharding needs."""
        tokens = tokens.to(self.latent_tokens.dtype).unflatten(0, image.shape[:2])
        return tokens.clone(memory_format=torch.contiguous_format)
