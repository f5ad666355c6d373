"""LightningDiT (Yao et al. 2025): a diffusion transformer (Peebles and Xie 2022) with a modern block.

Usable alone: ``LightningDit(TransformerConfig(preset="b"), channels=32, classes=1000)(x, t, label)``.

Shapes: B rows, d latent channels, N tokens (row-major), D width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtp_core.ops import AttentionChoice, Rope
from vtp_plugins.generation.config import TransformerConfig
from vtp_plugins.vit.attention import Attention, CropRows, Layout
from vtp_plugins.vit.ffn import SwiGlu
from vtp_plugins.vit.norm import RmsNorm

FREQUENCIES = 256
"""Sines and cosines of a time (DiT)."""
NORM_EPS = 1e-6
"""Epsilon of the norms (LightningDiT)."""


class TimeEmbedding(nn.Module):
    """An MLP on sines and cosines of times (B,), to (B, D)."""

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.linear1, self.linear2 = nn.Linear(FREQUENCIES, width), nn.Linear(width, width)

    def forward(self, t: Tensor) -> Tensor:
        """(B,) to (B, D)."""
        wave = waves(t * self.scale, FREQUENCIES).to(self.linear1.weight.dtype)
        y: Tensor = self.linear2(F.silu(self.linear1(wave)))
        return y


class Block(nn.Module):
    """Pre-norm attention and SwiGLU, both shifted, scaled and gated by the condition (adaLN-zero)."""

    def __init__(self, width: int, heads: int, config: TransformerConfig) -> None:
        super().__init__()
        self.norm1 = RmsNorm(width, eps=NORM_EPS)
        self.attn = Attention(width, heads, qk_norm=config.qk_norm)
        self.norm2 = RmsNorm(width, eps=NORM_EPS)
        self.mlp = SwiGlu(width, int(int(width * config.mlp_ratio) * 2 / 3))
        self.modulation = nn.Linear(width, 6 * width)

    def forward(self, x: Tensor, condition: Tensor, rope: Rope) -> Tensor:
        """(B, N, D) under a condition (B, 1, D), or (B, N, D) of its own for each token."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(F.silu(condition)).chunk(6, -1)
        layout = Layout((CropRows(x.shape[0], x.shape[1], rope),))
        y = modulated(self.norm1(x), shift1, scale1)
        x = x + gate1 * self.attn(y.flatten(0, 1), layout).view_as(x)
        return x + gate2 * self.mlp(modulated(self.norm2(x), shift2, scale2))


class FinalLayer(nn.Module):
    """Norm, modulation and the linear layer to the channels of a token."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.norm = RmsNorm(width, eps=NORM_EPS)
        self.modulation = nn.Linear(width, 2 * width)
        self.linear = nn.Linear(width, channels)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(B, N, D) to (B, N, channels)."""
        shift, scale = self.modulation(F.silu(condition)).chunk(2, -1)
        y: Tensor = self.linear(modulated(self.norm(x), shift, scale))
        return y


class LightningDit(nn.Module):
    """Output for noisy latents at times, under classes: a velocity or the data, as it is trained.

    With a wide head, the transformer's tokens are the condition of a few wide blocks that see the noisy
    latent again (DDT; RAE's DiT-DH), so that its width needs not be that of a latent token.

    Args:
        config: Sizes.
        channels: Latent channels d.
        classes: Classes; one more, the last, stands for none. 0: no condition but the time.
    """

    def __init__(self, config: TransformerConfig, channels: int, classes: int = 0) -> None:
        super().__init__()
        self.config, self.channels, self.classes = config, channels, classes
        width, token = config.width, channels * config.patch**2
        self.patch_embed = nn.Linear(token, width)
        self.time_embed = TimeEmbedding(width, config.time_scale)
        self.class_embed = nn.Embedding(classes + 1, width) if classes else None
        # Not named `blocks`, which is a method: sharding and checkpointing ask for it.
        self.block = nn.ModuleList(Block(width, config.heads, config) for _ in range(config.depth))
        head = config.head
        self.head_embed = self.head_project = None
        self.head_block = nn.ModuleList()
        if head is not None:
            self.head_embed = nn.Linear(token, head.width)
            self.head_project = nn.Linear(width, head.width)
            self.head_block.extend(Block(head.width, head.heads, config) for _ in range(head.depth))
        self.final = FinalLayer(width if head is None else head.width, token)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws initial values from torch's generator; gates and the last layer start at zero (DiT)."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, RmsNorm):
                module.reset_parameters()
        for linear in (self.time_embed.linear1, self.time_embed.linear2):
            nn.init.normal_(linear.weight, std=0.02)
        if self.class_embed is not None:
            nn.init.normal_(self.class_embed.weight, std=0.02)
        for block in self.blocks():
            nn.init.zeros_(block.modulation.weight)  # type: ignore[union-attr, arg-type]
        for linear in (self.final.modulation, self.final.linear):
            nn.init.zeros_(linear.weight)

    def blocks(self) -> Sequence[nn.Module]:
        """All blocks, first to last."""
        return [*self.block, *self.head_block]

    def use_attention(self, implementation: AttentionChoice) -> None:
        """Sets which attention implementation all blocks use."""
        for module in self.modules():
            if isinstance(module, Attention):
                module.implementation = implementation

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """One call.

        Args:
            x: Noisy normalised latents (B, d, h, w), in the dtype of the weights.
            t: Times (B,), 0 = noise, 1 = data; taken in float32 or wider.
            label: (B,) int64 classes, `classes` for none; only if there are classes.

        Returns:
            (B, d, h, w) in the dtype of `x`.

        Raises:
            ValueError: The grid is no multiple of the patch.
        """
        patch, config = self.config.patch, self.config
        rows, columns = x.shape[-2:]
        if rows % patch or columns % patch:
            raise ValueError(f"generation: a latent of {rows} x {columns} is no multiple of patch {patch}")
        grid = (rows // patch, columns // patch)
        noisy = F.pixel_unshuffle(x, patch).flatten(2).transpose(1, 2)
        t = t.to(torch.promote_types(x.dtype, torch.float32))  # rounded to half, times and positions are lost
        time = self.time_embed(t).unsqueeze(1)
        condition = time
        if self.class_embed is not None:
            assert label is not None, "a network with classes needs a label"
            condition = time + self.class_embed(label).unsqueeze(1)
        if config.head is not None:
            condition = F.silu(condition)  # as in RAE, whose blocks apply SiLU once more
        tokens = self.patch_embed(noisy) + grid_waves(grid, config.width, t).to(x.dtype)
        rope = rotary(grid, config.width // config.heads, config.rope_base, t)
        for block in self.block:
            tokens = block(tokens, condition, rope)
        if config.head is not None and self.head_embed is not None and self.head_project is not None:
            condition = self.head_project(F.silu(time + tokens))
            tokens = self.head_embed(noisy).to(tokens.dtype)
            rope = rotary(grid, config.head.width // config.head.heads, config.rope_base, t)
            for block in self.head_block:
                tokens = block(tokens, condition, rope)
        out = self.final(tokens, condition).to(x.dtype).transpose(1, 2).unflatten(2, grid)
        return F.pixel_shuffle(out, patch)


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """The modulation ``x * (1 + scale) + shift``."""
    return x * (1 + scale) + shift


def waves(position: Tensor, width: int) -> Tensor:
    """Cosines and sines (..., width) with periods from 2 pi to 20,000 pi, geometrically (DiT)."""
    half = width // 2
    steps = torch.arange(half, dtype=position.dtype, device=position.device) / half
    angle = position[..., None] * torch.exp(-math.log(10_000) * steps)
    return F.pad(torch.cat([angle.cos(), angle.sin()], -1), (0, width - 2 * half))


def grid_waves(grid: tuple[int, int], width: int, like: Tensor) -> Tensor:
    """Fixed positions of a grid's tokens, (N, width): half for the row, half for the column (DiT)."""
    half = width // 2
    rows, columns = (torch.arange(side, dtype=like.dtype, device=like.device) for side in grid)
    row, column = waves(rows, half), waves(columns, width - half)
    row = row[:, None].expand(-1, grid[1], -1)
    return torch.cat([row, column[None].expand(grid[0], -1, -1)], -1).flatten(0, 1)


def rotary(grid: tuple[int, int], head_width: int, base: float, like: Tensor) -> Rope:
    """Rotary tables of a grid: a quarter of the channels of a head turns with the row, one with the column.

    Positions are counted in tokens, periods rise geometrically from 2 pi to 2 pi base (Su et al. 2021).
    """
    quarter = head_width // 4
    steps = torch.arange(quarter, dtype=like.dtype, device=like.device) / quarter
    rates = base**-steps
    sides = (torch.arange(side, dtype=like.dtype, device=like.device) for side in grid)
    places = torch.stack(torch.meshgrid(*sides, indexing="ij"), -1).flatten(0, 1)
    angles = (places[:, :, None] * rates).flatten(1).repeat(1, 2)
    return Rope(angles.cos(), angles.sin())
