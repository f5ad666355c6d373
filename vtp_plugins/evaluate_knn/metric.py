"""Weighted nearest-neighbour classification by cosine similarity."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def knn_predict(
    train: Tensor,
    train_label: Tensor,
    test: Tensor,
    *,
    neighbors: int,
    temperature: float,
    chunk: int = 1024,
) -> Tensor:
    """Classes by a vote of the nearest training rows (Wu et al. 2018, as in DINO).

    Args:
        train: (n, F), any type; compared by cosine after its mean is subtracted.
        train_label: (n,) int64.
        test: (m, F).
        neighbors: Number of voting rows, at most n.
        temperature: A vote weighs exp(cosine / temperature).
        chunk: Test rows per matrix product.

    Returns:
        (m,) int64.
    """
    classes = int(train_label.max()) + 1
    reference = train.to(torch.float64, copy=True)
    mean = reference.mean(0)
    # In place: the training set may fill the memory.
    reference.sub_(mean)
    reference.div_(reference.norm(dim=1, keepdim=True).clamp_min(1e-12))
    predictions = []
    for rows in test.split(chunk):
        similarity, index = (F.normalize(rows.double() - mean, dim=1) @ reference.T).topk(
            min(neighbors, len(reference)), dim=1
        )
        votes = torch.zeros(len(rows), classes, dtype=torch.float64)
        votes.scatter_add_(1, train_label[index], ((similarity - 1) / temperature).exp())
        predictions.append(votes.argmax(1))
    return torch.cat(predictions)
