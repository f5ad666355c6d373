"""The attention layer of a block."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from vtp_core.ops import AttentionChoice, Rope, attention_choice, vit_attention
from vtp_plugins.vit.norm import RmsNorm


class CropRows(NamedTuple):
    """Where one crop set lies among the packed tokens.

    Attributes:
        rows: Crops of the set over all samples, B * C.
        tokens: Tokens of a crop, class token included.
        rope: Positions of its patches.
    """

    rows: int
    tokens: int
    rope: Rope


Layout = tuple[CropRows, ...]
"""The crop sets in the order in which their tokens are packed."""


class Attention(nn.Module):
    """Multi-head self-attention within each crop; the projections run once over all packed tokens.

    Attributes:
        implementation: Which `vit_attention` implementation runs.
    """

    def __init__(self, width: int, heads: int, *, qk_norm: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.q_norm = RmsNorm(width // heads) if qk_norm else None
        self.k_norm = RmsNorm(width // heads) if qk_norm else None
        self.implementation: AttentionChoice = attention_choice()

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """(T, D) packed tokens to (T, D)."""
        parts = self.qkv(x).split([crops.rows * crops.tokens for crops in layout])
        outs = [self._attend(part, crops) for part, crops in zip(parts, layout, strict=True)]
        y: Tensor = self.proj(outs[0] if len(outs) == 1 else torch.cat(outs))
        return y

    def _attend(self, qkv: Tensor, crops: CropRows) -> Tensor:
        """Queries, keys and values of one crop set, (rows * tokens, 3 D), to (rows * tokens, D)."""
        q, k, v = qkv.view(crops.rows, crops.tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind()
        out = vit_attention(
            q,
            k,
            v,
            q_norm=None if self.q_norm is None else self.q_norm.weight,
            k_norm=None if self.k_norm is None else self.k_norm.weight,
            rope=crops.rope,
            implementation=self.implementation,
        )
        return out.transpose(1, 2).flatten(2).flatten(0, 1)
