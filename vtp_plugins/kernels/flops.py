"""Floating-point operations of the attention kernels, for torch's FLOP counter."""

from __future__ import annotations

import math
from collections.abc import Sequence


def attention_flops(batch: Sequence[int], heads: int, queries: int, keys: int, width: int) -> int:
    """Of both products, 2 for a multiply-add.

    A packed call, without a batch, counts as one sequence: its lengths are values, not shapes.
    """
    return 4 * math.prod(batch) * heads * queries * keys * width


def heads_first_flops(q: Sequence[int], k: Sequence[int], *_: object, **__: object) -> int:
    """The same from the shapes of q and k, (..., heads, N, width), or packed, (N, heads, width)."""
    if len(q) == 3:
        tokens, heads, width = q
        return attention_flops((), heads, tokens, tokens, width)
    *batch, heads, tokens, width = q
    return attention_flops(batch, heads, tokens, k[-2], width)
