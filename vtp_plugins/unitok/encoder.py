"""The `unitok` encoder."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtp_core.encoder import Encoder
from vtp_core.errors import UsageError
from vtp_core.features import Tokens
from vtp_core.pixels import SIGNED, convert
from vtp_plugins.unitok.config import STRIDE, UniTokEncoderConfig
from vtp_plugins.unitok.layers import EPS, Block, ConvBlock, MapNorm
from vtp_plugins.vit.block import initialize


class Stem(nn.Module):
    """Two convolutions; the first halves the map."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, kernel_size=3, stride=2, padding=1)
        self.norm1 = MapNorm(width)
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, C, H / 2, W / 2)."""
        y: Tensor = self.conv2(F.gelu(self.norm1(self.conv1(x))))
        return y


class Pool(nn.Module):
    """A norm and a convolution that halves the map."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm = MapNorm(inputs)
        self.proj = nn.Conv2d(inputs, outputs, kernel_size=3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to (B, C', h / 2, w / 2)."""
        y: Tensor = self.proj(self.norm(x))
        return y


class UniTokEncoder(Encoder):
    """ViTamin: convolutions, then transformer blocks without positions but one vector added to all tokens.

    No class token and no mask token.
    """

    has_cls = False

    def __init__(self, config: UniTokEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.width, self.patch, self.depth = config.width, STRIDE, config.depth
        fine, coarse = config.widths
        self.pos_embed = nn.Parameter(torch.empty(1, 1, config.width))
        self.stem = Stem(fine)
        self.stages = nn.ModuleList(
            nn.ModuleList(
                ConvBlock(before if number == 0 else own, own, halves=number == 0) for number in range(count)
            )
            for (before, own), count in zip(pairwise((fine, fine, coarse)), config.stages, strict=True)
        )
        self.pool = Pool(coarse, config.width)
        # Not named `blocks`, which is a method of the interface.
        self.block = nn.ModuleList(
            Block(config.width, config.heads, config.hidden) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width, eps=EPS)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws all initial values from torch's global generator (after `to_empty`, say)."""
        for module in self.modules():
            if module is not self:
                initialize(module)
        nn.init.zeros_(self.pos_embed)

    def blocks(self) -> Sequence[nn.Module]:
        """The blocks of convolutions, then those of the transformer."""
        return [*(block for stage in self.stages for block in stage.children()), *self.block]

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
            UsageError: A mask, which this network can't serve.
            ValueError: An image side is no multiple of the patch.
        """
        if any(mask is not None for mask in masks):
            raise UsageError("unitok: it has no mask token to hide patches with; use the encoder vit")
        return [self._encode(image, layers, drop_path) for image in images]

    def _encode(self, image: Tensor, layers: tuple[int, ...], drop_path: float) -> Tokens:
        """(B, C, 3, H, W) to the tokens of one crop set."""
        height, width = image.shape[-2:]
        if height % STRIDE or width % STRIDE:
            raise ValueError(f"unitok: image of {height} x {width} pixels is no multiple of {STRIDE}")
        x = self.stem(convert(image.flatten(0, 1), "imagenet", SIGNED))
        for stage in self.stages:
            for block in stage.children():
                x = block(x, drop_path)
        x = self.pool(x)
        grid = (x.shape[2], x.shape[3])
        x = x.flatten(2).transpose(1, 2)
        x = x + self.pos_embed.to(x.dtype)
        taps: dict[int, Tensor] = {}
        for number, block in enumerate(self.block):
            x = block(x, drop_path)
            if number in layers:
                taps[number] = self._leaving(x, image)
        return Tokens(patches=self._leaving(self.norm(x), image), grid=grid, layers=taps)

    def _leaving(self, tokens: Tensor, image: Tensor) -> Tensor:
        """(B * C, N, D) as (B, C, N, D) in the parameters' dtype; a copy, as sharding needs."""
        tokens = tokens.to(self.pos_embed.dtype).unflatten(0, image.shape[:2])
        return tokens.clone(memory_format=torch.contiguous_format)
