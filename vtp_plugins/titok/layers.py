"""The transformer of TiTok's encoder and decoder: pre-norm blocks without rotary positions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vtp_core.ops import vit_attention

NORM_EPS = 1e-5
"""Epsilon of every LayerNorm, PyTorch's default."""


class Attention(nn.Module):
    """Multi-head self-attention; queries, keys and values from one layer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(R, T, D) to (R, T, D)."""
        y: Tensor = self.out_proj(attend(self.in_proj(x), self.heads))
        return y


class Mlp(nn.Module):
    """Two linear layers with the exact GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, hidden)
        self.gelu = nn.GELU()
        self.c_proj = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) to (..., D)."""
        y: Tensor = self.c_proj(self.gelu(self.c_fc(x)))
        return y


class Block(nn.Module):
    """Attention and MLP, each normalised before and added to its input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.attn = Attention(width, heads)
        self.ln_2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = Mlp(width, 4 * width)

    def forward(self, x: Tensor, drop_path: float = 0.0) -> Tensor:
        """(R, T, D) to (R, T, D); in training a row's branch drops with probability `drop_path`."""
        drop_path = drop_path if self.training else 0.0
        x = x + dropped(self.attn(self.ln_1(x)), drop_path)
        return x + dropped(self.mlp(self.ln_2(x)), drop_path)


def attend(qkv: Tensor, heads: int) -> Tensor:
    """Softmax attention of (R, T, 3 D) with `heads` heads side by side: (R, T, D)."""
    q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    return vit_attention(q, k, v).transpose(1, 2).flatten(2)


def dropped(y: Tensor, probability: float) -> Tensor:
    """A branch (R, ...): each row is zero with that probability, the others are scaled up."""
    if not probability:
        return y
    kept = torch.rand(len(y), *(1,) * (y.dim() - 1), device=y.device) >= probability
    return y * kept / (1 - probability)


def placed_tokens(*shape: int) -> nn.Parameter:
    """A learned token or table of positions (..., D); drawn by `reset_tokens`."""
    return nn.Parameter(torch.empty(*shape))


def reset_tokens(*tables: nn.Parameter) -> None:
    """Normal values of standard deviation D^-0.5, as in CLIP (arXiv 2103.00020)."""
    for table in tables:
        nn.init.normal_(table, std=table.shape[-1] ** -0.5)
