"""The contrastive loss of some rows against the whole global batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def equal_rows(ids: Tensor) -> Tensor:
    """Number of the text in each row of token ids (G, T), (G,) int64: equal rows, equal numbers."""
    return torch.unique(ids, dim=0, return_inverse=True)[1]


def contrast(
    queries: Tensor, keys: Tensor, scale: Tensor, positives: Tensor, groups: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Softmax cross-entropy of each query over all keys, in float32 or wider.

    Args:
        queries: (B, E) unit-length embeddings of this rank's rows.
        keys: (G, E) unit-length embeddings of the other modality, all ranks' rows in global order.
        scale: (1,), factor on the cosines.
        positives: (B,) int64, the key that belongs to each query.
        groups: (G,) int64; keys in the group of a query's own key, other than that key, are left out. None
            leaves none out.

    Returns:
        Loss of each query, (B,), and whether its own key scores highest, (B,) bool.

    Source:
        Radford et al. 2021 (CLIP), figure 3; the mask is ours.
    """
    with torch.autocast(queries.device.type, enabled=False):
        wide = torch.promote_types(queries.dtype, torch.float32)
        logits = scale.to(wide) * (queries.to(wide) @ keys.to(wide).T)
        if groups is not None:
            same = groups[positives][:, None] == groups[None, :]
            same = same.scatter(1, positives[:, None], False)
            logits = logits.masked_fill(same, -torch.inf)
        losses = F.cross_entropy(logits, positives, reduction="none")
    return losses, logits.detach().argmax(1) == positives
