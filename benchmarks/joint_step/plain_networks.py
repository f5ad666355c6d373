"""The networks of a VTP model in plain torch: SDPA, one crop set a call. Parameters are named as ours."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.joint_step.setting import CHANNELS, CONTEXT, PATCH, Sizes


class RmsNorm(nn.Module):
    """Root-mean-square norm, statistics in float32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) to the same."""
        if x.dtype == torch.float32:
            return F.rms_norm(x, self.weight.shape, self.weight, 1e-5)
        unit = F.rms_norm(x.float(), self.weight.shape, None, 1e-5).to(x.dtype)
        return (unit * self.weight).to(x.dtype)


def rope_tables(side: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines (side * side, width) of a square grid, periods 1 to 100."""
    periods = 100 ** (2 * torch.arange(width // 4, device=device) / (width // 2))
    centres = 2 * (torch.arange(side, device=device) + 0.5) / side - 1
    rows, columns = centres.repeat_interleave(side), centres.repeat(side)
    angles = 2 * math.pi * torch.stack((rows, columns), 1)[:, :, None] / periods
    angles = angles.flatten(1).repeat(1, 2)
    return angles.cos(), angles.sin()


def turned(x: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
    """Queries or keys (R, H, N, d) rotated by the positions of the last tokens, those of the tables."""
    cos, sin = tables
    prefix = x.shape[2] - len(cos)
    still, moving = x[:, :, :prefix], x[:, :, prefix:].float()
    first, second = moving.chunk(2, -1)
    moved = moving * cos + torch.cat((-second, first), -1) * sin
    return torch.cat((still, moved.to(x.dtype)), 2) if prefix else moved.to(x.dtype)


class Attention(nn.Module):
    """Self-attention with normed and rotated queries and keys."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.q_norm, self.k_norm = RmsNorm(width // heads), RmsNorm(width // heads)

    def forward(self, x: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
        """(R, N, D) to the same."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = turned(self.q_norm(q), tables), turned(self.k_norm(k), tables)
        y: Tensor = self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return y


class SwiGlu(nn.Module):
    """w3(silu(w1 x) * w2 x)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = -(-(width * 4 * 2 // 3) // 8) * 8
        self.w1, self.w2 = nn.Linear(width, hidden), nn.Linear(width, hidden)
        self.w3 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) to the same."""
        y: Tensor = self.w3(F.silu(self.w1(x)) * self.w2(x))
        return y


class Block(nn.Module):
    """Pre-norm attention and SwiGLU."""

    def __init__(self, width: int, heads: int, norm: type[nn.Module]) -> None:
        super().__init__()
        self.norm1, self.norm2 = norm(width), norm(width)
        self.attn, self.mlp = Attention(width, heads), SwiGlu(width)

    def forward(self, x: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
        """(R, N, D) to the same."""
        x = x + self.attn(self.norm1(x), tables)
        y: Tensor = x + self.mlp(self.norm2(x))
        return y


class LayerNorm(nn.LayerNorm):
    """The decoder's norm."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-6)


class Encoder(nn.Module):
    """ViT with class and mask token."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width = sizes.width
        self.head_width = width // sizes.heads
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, PATCH, PATCH)})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width))
        self.block = nn.ModuleList(Block(width, sizes.heads, RmsNorm) for _ in range(sizes.depth))
        self.norm = RmsNorm(width)

    def forward(self, images: Tensor, mask: Tensor | None = None) -> Tensor:
        """Images (R, 3, H, W) and masked patches (R, N) to tokens (R, 1 + N, D), class token first."""
        x = self.patch_embed["proj"](images).flatten(2).transpose(1, 2)
        if mask is not None:
            x = torch.where(mask[:, :, None], self.mask_token.to(x.dtype), x)
        x = torch.cat((self.cls_token.expand(len(x), -1, -1), x), 1)
        tables = rope_tables(images.shape[-1] // PATCH, self.head_width, images.device)
        for block in self.block:
            x = block(x, tables)
        y: Tensor = self.norm(x)
        return y


class Decoder(nn.Module):
    """ViT from latent positions to pixels."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.head_width = sizes.width // sizes.heads
        self.proj_in = nn.Conv2d(CHANNELS, sizes.width, 1)
        self.block = nn.ModuleList(Block(sizes.width, sizes.heads, LayerNorm) for _ in range(sizes.depth))
        self.norm = LayerNorm(sizes.width)
        self.proj_out = nn.Conv2d(sizes.width, 3 * PATCH**2, 1)

    def forward(self, z: Tensor) -> Tensor:
        """(R, d, h, h) to (R, 3, H, H)."""
        side = z.shape[-1]
        x = self.proj_in(z).flatten(2).transpose(1, 2).float()
        tables = rope_tables(side, self.head_width, z.device)
        for block in self.block:
            x = block(x, tables)
        x = self.norm(x).transpose(1, 2).unflatten(2, (side, side))
        return F.pixel_shuffle(self.proj_out(x), PATCH)


class TextBlock(nn.Module):
    """Pre-norm causal attention and MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(R, T, D) to the same."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(mixed.transpose(1, 2).flatten(2))
        y: Tensor = x + self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return y


class Text(nn.Module):
    """Causal text tower that reads the end token, the largest id."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width = sizes.width
        self.token_embedding = nn.Embedding(sizes.merges + 514, width)
        self.positions = nn.Parameter(torch.zeros(CONTEXT, width))
        self.blocks = nn.ModuleList(TextBlock(width, sizes.heads) for _ in range(sizes.depth))
        self.norm = nn.LayerNorm(width)
        self.projection = nn.Linear(width, width, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Ids (R, T) to embeddings (R, D)."""
        x = self.token_embedding(ids) + self.positions
        for block in self.blocks:
            x = block(x)
        y: Tensor = self.projection(self.norm(x)[torch.arange(len(ids), device=ids.device), ids.argmax(1)])
        return y


class Head(nn.Module):
    """MLP and prototypes; returns all scores."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        hidden, gelu = sizes.hidden, nn.GELU
        linears = (nn.Linear(sizes.width, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, 256))
        self.mlp = nn.Sequential(linears[0], gelu(), linears[1], gelu(), linears[2])
        self.weight_g = nn.Parameter(torch.ones(sizes.prototypes, 1))
        self.weight_v = nn.Parameter(torch.zeros(sizes.prototypes, 256))

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (n, D) to scores (n, K)."""
        unit = F.normalize(self.mlp(tokens).float(), dim=-1)
        return F.linear(unit, torch._weight_norm(self.weight_v, self.weight_g, 0))
