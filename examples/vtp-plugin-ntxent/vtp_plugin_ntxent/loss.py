"""NT-Xent as tensor maths: the normalised temperature-scaled cross entropy of SimCLR (arXiv 2002.05709)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def nt_xent(local: Tensor, everyone: Tensor, rows: Tensor, temperature: float) -> Tensor:
    """The loss of each local embedding as the anchor (equation 1).

    The positive of an anchor is the other crop of its row; all other embeddings but itself are negatives.

    Args:
        local: (B, 2, D), the two embeddings of each of this rank's rows, of unit length.
        everyone: (G, 2, D), those of all rows over all ranks, in global order.
        rows: (B,) int64, where the local rows stand in `everyone`.
        temperature: Divides the cosine similarities.

    Returns:
        (B, 2), float32 or wider.
    """
    wide = torch.promote_types(local.dtype, torch.float32)
    anchors = local.to(wide).flatten(0, 1)
    candidates = everyone.to(wide).flatten(0, 1)
    # Candidates 2i and 2i + 1 are the crops of row i.
    own = (2 * rows[:, None] + torch.arange(2, device=rows.device)).flatten()
    logits = anchors @ candidates.T / temperature
    itself = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, own[:, None], True)
    losses = functional.cross_entropy(logits.masked_fill(itself, -torch.inf), own ^ 1, reduction="none")
    return losses.unflatten(0, (-1, 2))
