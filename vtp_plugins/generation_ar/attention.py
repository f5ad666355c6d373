"""Causal self-attention, over whole sequences or one token at a time.

Shapes: B rows, N tokens, H heads, d head width, D = H d.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtp_core.ops import AttentionChoice, Rope, vit_attention
from vtp_core.ops.attention_torch import rms_norm, rotate
from vtp_plugins.vit.norm import RmsNorm


class KeysAndValues:
    """Keys and values of the tokens so far, rotated and normalised.

    Args:
        rows: B.
        tokens: Most tokens.
        heads: H.
        width: d.
        like: A tensor of the wanted dtype and device.
    """

    def __init__(self, rows: int, tokens: int, heads: int, width: int, like: Tensor) -> None:
        self._keys = like.new_zeros(rows, heads, tokens, width)
        self._values = torch.zeros_like(self._keys)
        self._count = 0

    def add(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Adds one token (B, H, 1, d); returns all so far, (B, H, n, d)."""
        place = slice(self._count, self._count + 1)
        self._keys[:, :, place], self._values[:, :, place] = key, value
        self._count += 1
        return self._keys[:, :, : self._count], self._values[:, :, : self._count]


class CausalAttention(nn.Module):
    """Multi-head attention of each token to itself and to those before it.

    Attributes:
        implementation: Which `vit_attention` implementation runs; None: ``auto`` among what is installed.
    """

    def __init__(self, width: int, heads: int, *, qk_norm: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.q_norm = RmsNorm(width // heads) if qk_norm else None
        self.k_norm = RmsNorm(width // heads) if qk_norm else None
        self.implementation: AttentionChoice | None = None

    def forward(self, x: Tensor, rope: Rope) -> Tensor:
        """(B, N, D) to (B, N, D); the last tokens are rotated by the tables, those before stay."""
        q, k, v = self._split(x)
        out = vit_attention(
            q,
            k,
            v,
            q_norm=None if self.q_norm is None else self.q_norm.weight,
            k_norm=None if self.k_norm is None else self.k_norm.weight,
            rope=rope,
            causal=True,
            implementation=self.implementation,
        )
        return self._joined(out)

    def step(self, x: Tensor, rope: Rope | None, past: KeysAndValues) -> Tensor:
        """The output (B, 1, D) of the next token (B, 1, D), which is added to the past.

        One query has nothing to mask: this is torch's attention; the operator takes as many queries as keys.

        Args:
            x: The token.
            rope: Tables of its position, (1, d); None: it is not rotated.
            past: Keys and values of the tokens before.
        """
        q, k, v = self._split(x)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = rms_norm(q, self.q_norm.weight), rms_norm(k, self.k_norm.weight)
        if rope is not None:
            q, k = rotate(q, rope), rotate(k, rope)
        return self._joined(F.scaled_dot_product_attention(q, *past.add(k, v)))

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return q, k, v

    def _joined(self, out: Tensor) -> Tensor:
        y: Tensor = self.proj(out.transpose(1, 2).flatten(2))
        return y
