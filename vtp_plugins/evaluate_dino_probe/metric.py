"""Linear classifiers that are trained side by side by SGD, one for each input and learning rate."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

MOMENTUM = 0.9
INITIAL = 0.01
"""Standard deviation of initial weights."""
_ROWS = 4096
"""Rows that are answered at once."""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What heads answer; of a head that is not finite on a row, nothing that could be right.

    Attributes:
        predicted: (heads, m) int64, -1 where not finite.
        loss: (heads,) float64, mean cross-entropy; infinite where not finite.
    """

    predicted: Tensor
    loss: Tensor


class Heads:
    """Softmax classifiers, one for each pair of an input width and a rate, all trained on the same batches.

    A head of width w reads the last w features of a row. Heads do not affect each other: the gradient of the
    sum of their losses is that of each alone. Head i has width i // rates and rate i % rates.

    Args:
        widths: Input widths.
        rates: Learning rates.
        classes: Number of classes K.
        seed: Of the initial weights, normal of deviation 0.01; biases start at 0.
        like: Device and dtype.
    """

    def __init__(
        self, widths: Sequence[int], rates: Sequence[float], classes: int, *, seed: int, like: Tensor
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.widths, self.classes = tuple(widths), classes
        self.rates = torch.tensor(rates, dtype=torch.float64).to(like)[:, None, None]
        self.weights, self.biases = [], []
        for width in self.widths:
            drawn = INITIAL * torch.randn(len(rates), classes, width, generator=generator)
            self.weights.append(drawn.to(like))
            self.biases.append(torch.zeros(len(rates), 1, classes).to(like))
        self._speeds = [torch.zeros_like(tensor) for tensor in (*self.weights, *self.biases)]

    def logits(self, rows: Tensor) -> list[Tensor]:
        """Width by width (rates, B, K) of rows (B, F)."""
        found = []
        for width, weight, bias in zip(self.widths, self.weights, self.biases, strict=True):
            flat = rows[:, -width:] @ weight.flatten(0, 1).T
            found.append(flat.unflatten(1, weight.shape[:2]).transpose(0, 1) + bias)
        return found

    def step(self, rows: Tensor, label: Tensor, fraction: float) -> None:
        """One step of SGD with momentum on the mean cross-entropy.

        Args:
            rows: (B, F).
            label: (B,) int64.
            fraction: Of the rates, as the schedule has it.
        """
        gradients: list[Tensor] = []
        biases: list[Tensor] = []
        target = F.one_hot(label, self.classes).to(rows)
        for width, logits in zip(self.widths, self.logits(rows), strict=True):
            error = (logits.softmax(-1) - target) / len(rows)  # (rates, B, K)
            joined = error.transpose(0, 1).flatten(1)
            gradients.append((joined.T @ rows[:, -width:]).unflatten(0, (len(error), -1)))
            biases.append(error.sum(1, keepdim=True))
        for tensor, speed, gradient in zip(
            (*self.weights, *self.biases), self._speeds, (*gradients, *biases), strict=True
        ):
            speed.mul_(MOMENTUM).add_(gradient)
            tensor.sub_(fraction * self.rates * speed)

    def answers(self, features: Tensor, label: Tensor) -> Answers:
        """The heads' answers and losses on rows (m, F) with labels (m,)."""
        predicted, losses = [], []
        for rows, own in zip(features.split(_ROWS), label.split(_ROWS), strict=True):
            logits = torch.cat(self.logits(as_input(rows, self.rates))).double()  # (heads, B, K)
            finite = logits.isfinite().all(-1)
            predicted.append(torch.where(finite, logits.argmax(-1), -1).cpu())
            known = torch.where(own < self.classes, own, 0).to(logits.device)
            loss = logits.logsumexp(-1) - logits.gather(-1, known.expand(len(logits), -1)[..., None])[..., 0]
            losses.append(torch.where(finite, loss, math.inf).cpu())
        return Answers(predicted=torch.cat(predicted, 1), loss=torch.cat(losses, 1).mean(1))


def as_input(rows: Tensor, like: Tensor) -> Tensor:
    """Rows in the dtype and on the device of `like`; bytes from -2 to 2."""
    if rows.dtype == torch.uint8:
        return (rows.to(like) - 127.5) / 63.75
    return rows.to(like)


def steps_of(count: int, *, epochs: int, batch: int) -> int:
    """Steps of so many passes over `count` rows, rounded up."""
    return math.ceil(epochs * count / batch)


def batches(count: int, *, batch: int, steps: int, seed: int) -> Iterator[Tensor]:
    """Indices of full batches from one stream of shuffled passes over `count` rows."""
    generator = torch.Generator().manual_seed(seed)
    waiting = torch.zeros(0, dtype=torch.int64)
    for _ in range(steps):
        while len(waiting) < batch:
            waiting = torch.cat([waiting, torch.randperm(count, generator=generator)])
        yield waiting[:batch]
        waiting = waiting[batch:]


def train(
    heads: Heads,
    features: Tensor,
    label: Tensor,
    among: Tensor,
    *,
    steps: int,
    batch: int,
    every: int,
    seed: int,
) -> Iterator[None]:
    """Trains all heads in one pass; the rates are lr * batch / 256 and fall to 0 along a cosine.

    Args:
        heads: What is trained.
        features: (n, F) float, or uint8 for raw pixels.
        label: (n,) int64.
        among: (k,) int64, the rows to train on.
        steps: Number of steps.
        batch: Rows of a step.
        every: Rows after which it yields.
        seed: Of the order.

    Yields:
        After `every` rows each, and at the end.
    """
    for index, chosen in enumerate(batches(len(among), batch=batch, steps=steps, seed=seed)):
        at = among[chosen]
        rows = as_input(features[at], heads.rates)
        fraction = batch / 256 * 0.5 * (1 + math.cos(math.pi * index / steps))
        heads.step(rows, label[at].to(rows.device), fraction)
        done = index + 1
        if done == steps or done * batch // every > index * batch // every:
            yield
