"""The contrastive loss of a rank's rows against the global batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

BLOCK_ELEMENTS = 1 << 24
"""Most scores kept for the backward pass, 64 MiB in float32; more are recomputed in blocks."""


def equal_rows(ids: Tensor) -> Tensor:
    """A number for each row of token ids (G, T), (G,) int64, the same for equal rows."""
    return torch.unique(ids, dim=0, return_inverse=True)[1]


def contrast(
    queries: Tensor, keys: Tensor, scale: Tensor, positives: Tensor, groups: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Softmax cross-entropy of each query over all keys, in float32 or wider.

    More than `BLOCK_ELEMENTS` scores are computed in blocks of queries and recomputed in the backward pass,
    which needs the memory of a few blocks instead of several (B, G) matrices.

    Args:
        queries: (B, E) unit-length embeddings of this rank's rows.
        keys: (G, E) unit-length embeddings of the other modality, all ranks' rows in global order.
        scale: (1,), factor on the cosines.
        positives: (B,) int64, each query's own key.
        groups: (G,) int64; other keys in the group of a query's own key are masked. None: no mask.

    Returns:
        Loss of each query, (B,), and whether its own key scores highest, (B,) bool.

    Source:
        Radford et al. 2021 (CLIP), figure 3; the mask is ours.
    """
    with torch.autocast(queries.device.type, enabled=False):
        size = max(BLOCK_ELEMENTS // max(len(keys), 1), 1)
        if len(queries) <= size:
            return _scored(queries, keys, scale, positives, groups)
        blocks = []
        for start in range(0, len(queries), size):
            rows = slice(start, start + size)
            part = (queries[rows], keys, scale, positives[rows], groups)
            blocks.append(checkpoint(_scored, *part, use_reentrant=False, preserve_rng_state=False))
        losses, found = zip(*blocks, strict=True)
        return torch.cat(losses), torch.cat(found)


def _scored(
    queries: Tensor, keys: Tensor, scale: Tensor, positives: Tensor, groups: Tensor | None
) -> tuple[Tensor, Tensor]:
    wide = torch.promote_types(queries.dtype, torch.float32)
    logits = scale.to(wide) * (queries.to(wide) @ keys.to(wide).T)
    if groups is not None:
        same = groups[positives][:, None] == groups[None, :]
        same = same.scatter(1, positives[:, None], False)
        logits = logits.masked_fill(same, -torch.inf)
    losses = F.cross_entropy(logits, positives, reduction="none")
    return losses, logits.detach().argmax(1) == positives
