"""The attention layer of a block."""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vtp_core.ops import AttentionCase, AttentionChoice, Rope, vit_attention
from vtp_core.ops.attention import default_choice
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


class Layout(tuple[CropRows, ...]):
    """The crop sets in the order in which their tokens are packed."""

    @cached_property
    def packed(self) -> tuple[Tensor, Rope]:
        """All crops as sequences of one call of `vit_attention`: their bounds, and tables of every token."""
        ends = torch.tensor([0, *(crops.tokens for crops in self for _ in range(crops.rows))]).cumsum(0)
        cos = [_of_all_tokens(crops, crops.rope.cos, 1.0) for crops in self]
        sin = [_of_all_tokens(crops, crops.rope.sin, 0.0) for crops in self]
        return ends, Rope(torch.cat(cos), torch.cat(sin))


def _of_all_tokens(crops: CropRows, table: Tensor, still: float) -> Tensor:
    """(P, d) to (rows * tokens, d); tokens before the patches get the value that leaves them in place."""
    prefix = table.new_full((crops.tokens - len(table), table.shape[1]), still)
    return torch.cat((prefix, table)).expand(crops.rows, -1, -1).flatten(0, 1)


class Attention(nn.Module):
    """Multi-head self-attention within each crop; the projections run once over all packed tokens.

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

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """(T, D) packed tokens to (T, D)."""
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))
        if self._packs(qkv, layout):
            outs = [self._attend_packed(qkv, layout)]
        else:
            parts = qkv.split([crops.rows * crops.tokens for crops in layout])
            outs = [self._attend(part, crops) for part, crops in zip(parts, layout, strict=True)]
        y: Tensor = self.proj(outs[0] if len(outs) == 1 else torch.cat(outs))
        return y

    def _packs(self, qkv: Tensor, layout: Layout) -> bool:
        """Whether one call serves all crop sets."""
        if len(layout) == 1 or torch.compiler.is_compiling():
            return False
        case = AttentionCase(
            device=qkv.device.type,
            dtype=qkv.dtype,
            tokens=max(crops.tokens for crops in layout),
            width=qkv.shape[-1],
            packed=True,
            lse=False,
            rope=layout[0].rope.cos.dtype,
            index=qkv.device.index,
        )
        return (self.implementation or default_choice(qkv.device)).pick(case).packs

    def _attend_packed(self, qkv: Tensor, layout: Layout) -> Tensor:
        """(T, 3, H, d) of all crop sets to (T, D)."""
        q, k, v = split(qkv)
        ends, rope = layout.packed
        return self._attention(q, k, v, rope, ends).flatten(1)

    def _attend(self, qkv: Tensor, crops: CropRows) -> Tensor:
        """Queries, keys and values of one crop set, (rows * tokens, 3, H, d), to (rows * tokens, D)."""
        q, k, v = (x.unflatten(0, (crops.rows, crops.tokens)).transpose(1, 2) for x in split(qkv))
        return self._attention(q, k, v, crops.rope, None).transpose(1, 2).flatten(2).flatten(0, 1)

    def _attention(self, q: Tensor, k: Tensor, v: Tensor, rope: Rope, ends: Tensor | None) -> Tensor:
        return vit_attention(
            q,
            k,
            v,
            q_norm=None if self.q_norm is None else self.q_norm.weight,
            k_norm=None if self.k_norm is None else self.k_norm.weight,
            rope=rope,
            cu_seqlens=ends,
            implementation=self.implementation,
        )


class _Split(torch.autograd.Function):
    """Unbinds queries, keys and values; their gradients are joined in place if they lie side by side.

    A kernel that gives the three as parts of one tensor saves a copy of it a layer.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor) -> tuple[Tensor, ...]:
        return qkv.unbind(1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _joined(*gradients)


def _joined(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Three (T, H, d) as (T, 3, H, d): of their own memory where they are its parts, else a copy."""
    tokens, heads, width = q.shape
    step = heads * width
    strides = (3 * step, width, 1)
    beside = (
        not torch.is_grad_enabled()  # a second derivative needs all three in its graph
        and all(x.stride() == strides for x in (q, k, v))
        and k.storage_offset() - q.storage_offset() == step
        and v.storage_offset() - k.storage_offset() == step
        and q.untyped_storage().data_ptr() == k.untyped_storage().data_ptr() == v.untyped_storage().data_ptr()
    )
    if not beside:
        return torch.stack((q, k, v), dim=1)
    return q.as_strided((tokens, 3, heads, width), (3 * step, step, width, 1))


def split(qkv: Tensor) -> tuple[Tensor, ...]:
    """(T, 3, H, d) to queries, keys and values, (T, H, d) each."""
    parts: tuple[Tensor, ...] = qkv.unbind(1) if torch.compiler.is_compiling() else _Split.apply(qkv)
    return parts
