"""Draws codes from logits by given uniform numbers."""

from __future__ import annotations

import torch
from torch import Tensor


def draw_codes(logits: Tensor, numbers: Tensor, temperature: float = 1.0, top_k: int | None = None) -> Tensor:
    """Codes by the inverse of the cumulative distribution, in float64.

    Args:
        logits: (B, K).
        numbers: (B,) uniform in [0, 1).
        temperature: Divisor of the logits.
        top_k: Draw among that many most likely codes and those as likely as the last of them; None: all.

    Returns:
        (B,) int64; of logits that are not finite any code.
    """
    scaled = logits.double() / temperature
    if top_k is not None and top_k < scaled.shape[1]:
        least = scaled.topk(top_k).values[:, -1:]
        scaled = scaled.masked_fill(scaled < least, -torch.inf)
    bounds = scaled.softmax(1).cumsum(1)
    # Below the last bound, so the first bound above it exists and belongs to a code of some probability.
    drawn = torch.searchsorted(bounds, numbers.double()[:, None] * bounds[:, -1:], right=True)[:, 0]
    return drawn.clamp(max=logits.shape[1] - 1)
