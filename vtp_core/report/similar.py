"""Texts with the images that they find, and images with their neighbours in latent space."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vtp_core.report.survey import Survey
from vtp_core.tokenizer import Tokenizer

TOP = 5


@dataclass(frozen=True, kw_only=True)
class Found:
    """One image of a result.

    Attributes:
        row: In the survey.
        similarity: Cosine.
        match: Whether it is what was asked for: the caption's own image, or one of the same class; None if
            that is unknown.
    """

    row: int
    similarity: float
    match: bool | None


@dataclass(frozen=True, kw_only=True)
class Query:
    """What was asked for and the nearest images, the nearest first.

    Attributes:
        text: The text, empty for an image.
        kind: ``caption``, ``class`` or ``image``.
        row: The caption's own image, or the image that was asked for; None for a class.
        rank: Place of the caption's own image among all, from 1; None for others.
        found: The nearest images.
    """

    text: str
    kind: str
    row: int | None
    rank: int | None
    found: tuple[Found, ...]


def text_queries(
    model: Tokenizer,
    pool: Survey,
    classes: Sequence[str],
    *,
    avoid: Collection[int] = (),
    captions: int = 4,
    names: int = 4,
) -> list[Query]:
    """Captions of the set and names of its classes with their nearest images by embedding.

    Args:
        model: Embeds text.
        pool: The images.
        classes: Class names by label.
        avoid: Rows whose captions are asked for only if there are no others.
        captions: How many captions.
        names: How many class names.
    """
    if pool.embeddings is None:
        return []
    distinct = {caption: row for row, caption in reversed(list(enumerate(pool.captions))) if caption}
    rows = _spread(_fresh(sorted(distinct.values()), avoid), captions)
    present = {label for label in pool.labels if 0 <= label < len(classes)}
    labels = _spread(sorted(present), names)
    texts = [pool.captions[row] for row in rows] + [classes[label] for label in labels]
    if not texts:
        return []
    scores = pool.embeddings @ model.embed_text(texts).float().cpu().T
    queries = []
    for column, row in enumerate(rows):
        similar = scores[:, column]
        best = max(float(similar[i]) for i, caption in enumerate(pool.captions) if caption == texts[column])
        found = _nearest(similar, [caption == texts[column] for caption in pool.captions])
        rank = 1 + int((similar > best).sum())
        queries.append(Query(text=texts[column], kind="caption", row=row, rank=rank, found=found))
    for column, label in enumerate(labels, len(rows)):
        found = _nearest(scores[:, column], [other == label for other in pool.labels])
        queries.append(Query(text=texts[column], kind="class", row=None, rank=None, found=found))
    return queries


def neighbours(pool: Survey, *, avoid: Collection[int] = (), count: int = 4) -> list[Query]:
    """Images with the nearest others by cosine of their centred latents, position by position.

    Args:
        pool: The images.
        avoid: Rows that are asked for only if there are no others.
        count: How many.
    """
    queries = []
    for row in _spread(_fresh(range(len(pool.keys)), avoid), count):
        similar = pool.latents @ pool.latents[row]
        similar[row] = -torch.inf
        label = pool.labels[row]
        same = [other == label for other in pool.labels] if label >= 0 else None
        found = _nearest(similar, same, len(pool.keys) - 1)
        queries.append(Query(text="", kind="image", row=row, rank=None, found=found))
    return queries


def _nearest(similar: Tensor, match: Sequence[bool] | None, most: int = TOP) -> tuple[Found, ...]:
    values, rows = similar.topk(min(TOP, most, len(similar)))
    return tuple(
        Found(row=row, similarity=value, match=None if match is None else match[row])
        for value, row in zip(values.tolist(), rows.tolist(), strict=True)
    )


def _fresh(rows: Sequence[int], avoid: Collection[int]) -> Sequence[int]:
    return [row for row in rows if row not in avoid] or rows


def _spread(items: Sequence[int], count: int) -> list[int]:
    """At most `count` of the items, evenly spread, beginning in the middle of the first part."""
    count = min(count, len(items))
    return [items[(2 * i + 1) * len(items) // (2 * count)] for i in range(count)]
