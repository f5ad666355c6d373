"""Which head is the answer: the best on a part of the training set, or on the held-out set itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vtp_plugins.evaluate_dino_probe.config import DinoProbeConfig
from vtp_plugins.evaluate_dino_probe.metric import Answers, Heads, steps_of, train
from vtp_plugins.probes.answers import Split

Rows = tuple[Tensor, Tensor]
"""Inputs (n, F), float32 or uint8, and labels (n,) int64."""


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The selected head.

    Attributes:
        predicted: (m,) int64, its answers on the held-out rows.
        input: Index of its input width.
        rate: Its rate at a batch of 256.
        edge: The end of the rates at which it lies, or None.
        accuracy: Its accuracy on the rows that selected it.
        best_on_held_out: The highest accuracy of any head on the held-out rows.
        steps: Steps of training.
        finite: Whether its outputs are.
    """

    predicted: Tensor
    input: int
    rate: float
    edge: Literal["smallest", "largest"] | None
    accuracy: float
    best_on_held_out: float
    steps: int
    finite: bool


def best_head(
    fit: Split,
    held_out: Split,
    kind: Literal["features", "pixels"],
    widths: Sequence[int],
    config: DinoProbeConfig,
    *,
    device: torch.device,
) -> Chosen:
    """Trains the heads and selects one, of equally accurate ones that of the lowest loss.

    Args:
        fit: The training set.
        held_out: The held-out set; selects under the protocol `vtp-2512`.
        kind: What the heads read.
        widths: Input widths.
        config: The evaluator's table.
        device: Where heads are trained.
    """
    published = config.protocol == "vtp-2512"
    features, label = getattr(fit, kind), fit.label
    asked: Rows = getattr(held_out, kind), held_out.label
    aside = torch.arange(len(label)) % 10 == 9
    own = fit.order if published else fit.order[~aside]
    judge: Rows = asked if published else (features[fit.order[aside]], label[fit.order[aside]])
    images = len(own) // config.copies
    batch = config.batch_of(images)
    steps = steps_of(images, epochs=config.epochs, batch=batch)
    heads = Heads(
        widths,
        config.rates,
        int(label.max()) + 1,
        seed=config.seed,
        like=torch.zeros(0, device=device),
    )
    picked: _Picked | None = None
    training = train(heads, features, label, own, steps=steps, batch=batch, every=images, seed=config.seed)
    for _ in training:
        if published:
            found = _pick(heads, judge)
            picked = found if picked is None or found.rank > picked.rank else picked
    picked = picked or _pick(heads, judge)
    answers = picked.answers if published else heads.answers(*asked)
    input_, rate = divmod(picked.head, len(config.rates))
    return Chosen(
        predicted=answers.predicted[picked.head],
        input=input_,
        rate=config.rates[rate],
        edge=_edge(picked.accuracies[input_ * len(config.rates) :][: len(config.rates)], config.rates, rate),
        accuracy=picked.rank[0],
        best_on_held_out=float(_accuracies(answers, held_out.label).max()),
        steps=steps,
        finite=picked.rank[1] > -math.inf,
    )


@dataclass(frozen=True, kw_only=True)
class _Picked:
    """The best head on the rows that select: its accuracy and minus its loss, and what all heads answered."""

    head: int
    rank: tuple[float, float]
    accuracies: Tensor
    answers: Answers


def _pick(heads: Heads, rows: Rows) -> _Picked:
    answers = heads.answers(*rows)
    accuracies = _accuracies(answers, rows[1])
    ranks = list(zip(accuracies.tolist(), (-answers.loss).tolist(), strict=True))
    head = max(range(len(ranks)), key=ranks.__getitem__)
    return _Picked(head=head, rank=ranks[head], accuracies=accuracies, answers=answers)


def _accuracies(answers: Answers, label: Tensor) -> Tensor:
    """(heads,) float64."""
    return (answers.predicted == label).double().mean(1)


def _edge(accuracies: Tensor, rates: Sequence[float], chosen: int) -> Literal["smallest", "largest"] | None:
    """The end of the rates at which the chosen one lies, if it is better than the one beside it."""
    order = sorted(range(len(rates)), key=rates.__getitem__)
    place = order.index(chosen)
    beside = {0: 1, len(rates) - 1: len(rates) - 2}.get(place)
    if len(rates) < 2 or beside is None or accuracies[chosen] <= accuracies[order[beside]]:
        return None
    return "smallest" if place == 0 else "largest"
