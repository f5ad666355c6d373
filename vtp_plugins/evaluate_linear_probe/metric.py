"""Multinomial logistic regression with an L2 penalty, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def standardise(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Standardises both by the training set's mean and deviation per feature, and divides by sqrt(features).

    The division makes the effect of a penalty nearly independent of the number of features.
    """
    train, test = (rows.to(torch.float64, copy=True) for rows in (train, test))
    mean, std = train.mean(0), train.std(0, correction=0)
    scale = torch.where(std > 1e-12, std, torch.ones_like(std)) * train.shape[1] ** 0.5
    # In place: the training set may fill the memory.
    return train.sub_(mean).div_(scale), test.sub_(mean).div_(scale)


def rotate(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Projects both onto the span of the training rows, if that has fewer dimensions.

    The optimum of a penalised linear classifier lies in that span, so that predictions stay the same.
    """
    rows, width = train.shape
    if width <= rows:
        return train, test
    values, vectors = torch.linalg.eigh(train @ train.T)
    keep = values > values[-1] * 1e-12
    basis = train.T @ (vectors[:, keep] / values[keep].sqrt())
    return train @ basis, test @ basis


def fit(
    x: Tensor, label: Tensor, classes: int, strength: float, *, iterations: int = 200
) -> tuple[Tensor, Tensor]:
    """Minimises mean cross-entropy + strength / 2 * |weight|^2 by L-BFGS from zero; deterministic.

    Args:
        x: (n, F) float64.
        label: (n,) int64 in 0 .. classes - 1.
        classes: Number of classes K.
        strength: Penalty on the weight; the bias has none.
        iterations: Upper bound.

    Returns:
        Weight (K, F) and bias (K,).
    """
    weight = torch.zeros(classes, x.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weight, bias],
        max_iter=iterations,
        tolerance_grad=1e-7,
        tolerance_change=1e-10,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        solver.zero_grad()
        loss = F.cross_entropy(x @ weight.T + bias, label) + 0.5 * strength * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        solver.step(closure)
    return weight.detach(), bias.detach()


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A fitted probe.

    Attributes:
        predicted: (m,) int64, classes of the test rows.
        strength: The selected penalty.
        edge: The end of the candidates at which it lies, if it is better than the one beside it, or None.
    """

    predicted: Tensor
    strength: float
    edge: Literal["smallest", "largest"] | None


def probe(train: Tensor, train_label: Tensor, test: Tensor, strengths: Sequence[float]) -> Fitted:
    """Predictions for `test`, with the penalty that is most accurate on a fifth of the training rows.

    Args:
        train: (n, F), in an order that does not depend on the label.
        train_label: (n,) int64.
        test: (m, F).
        strengths: Candidate penalties; of equally accurate ones the greatest is selected.
    """
    classes = int(train_label.max()) + 1
    train, test = rotate(*standardise(train, test))
    aside = torch.arange(len(train)) % 5 == 4
    candidates = sorted(set(strengths), reverse=True)
    right: list[int] = []
    if len(candidates) > 1 and bool(aside.any()):
        for strength in candidates:
            weight, bias = fit(train[~aside], train_label[~aside], classes, strength)
            hits = (train[aside] @ weight.T + bias).argmax(1) == train_label[aside]
            right.append(int(hits.sum()))
    best = right.index(max(right)) if right else 0
    edge: Literal["smallest", "largest"] | None = None
    if right and best == len(right) - 1:
        edge = "smallest"
    elif right and best == 0 and right[0] > right[1]:
        edge = "largest"
    weight, bias = fit(train, train_label, classes, candidates[best])
    return Fitted(predicted=(test @ weight.T + bias).argmax(1), strength=candidates[best], edge=edge)
