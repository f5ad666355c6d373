"""Recall at k with several correct items per query."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def wrong_before_right(query: Tensor, gallery: Tensor, query_id: Tensor, gallery_id: Tensor) -> Tensor:
    """Number of wrong items that rank at or before the best correct one; ties count as wrong.

    Args:
        query: (n, E) unit vectors.
        gallery: (m, E) unit vectors.
        query_id: (n,) int64.
        gallery_id: (m,) int64; an item is correct if it has the query's id; every query has one.

    Returns:
        (n,) int64; a query is a hit at k if its number is below k.
    """
    counts = []
    for rows, ids in zip(query.split(1024), query_id.split(1024), strict=True):
        similarity = rows.double() @ gallery.double().T
        right = ids[:, None] == gallery_id[None]
        best = similarity.masked_fill(~right, -math.inf).amax(1, keepdim=True)
        counts.append(((similarity >= best) & ~right).sum(1))
    return torch.cat(counts)


def chance(right: Tensor, items: int, k: int) -> float:
    """Mean probability that one of k items drawn without replacement is correct.

    Args:
        right: (n,) int64, number of correct items of each query.
        items: Size of the gallery.
        k: Number of items drawn.
    """

    def hit(count: int) -> float:
        if items - count < k:
            return 1.0
        return 1 - math.exp(_log_choose(items - count, k) - _log_choose(items, k))

    values: Sequence[int] = right.tolist()
    table = {count: hit(count) for count in set(values)}
    return sum(table[count] for count in values) / len(values)


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
