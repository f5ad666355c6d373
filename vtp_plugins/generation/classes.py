"""Classes of rows: those of a step, hidden at random for guidance, and those of samples."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from vtp_core.errors import DataError
from vtp_core.math.row_noise import row_rand
from vtp_core.step import Step


class ConditionalConfig(Protocol):
    """What the tables of generators have in common."""

    @property
    def use(self) -> str:
        """Name of the objective."""
        ...

    @property
    def view(self) -> str:
        """View of the rows."""
        ...

    @property
    def classes(self) -> int:
        """Number of classes."""
        ...

    @property
    def drop_class(self) -> float:
        """Share of rows whose class is hidden."""
        ...


def shown_classes(step: Step, config: ConditionalConfig) -> Tensor | None:
    """(B,) classes, the number `classes` for rows whose class is hidden or unknown; None without classes.

    Args:
        step: The step.
        config: The objective's table.
    """
    if not config.classes:
        return None
    label = known_classes(step, config)
    hidden = (step.rand(len(label)) < config.drop_class).to(label.device) | (label < 0)
    return torch.where(hidden, config.classes, label)


def known_classes(step: Step, config: ConditionalConfig, *, wait: bool = False) -> Tensor:
    """(B,) labels of the view, negative where there is none.

    Args:
        step: The step.
        config: The objective's table.
        wait: Whether to check labels on a GPU too, which the host then waits for.

    Raises:
        DataError: A label is beyond the classes.
    """
    view, classes = config.view, config.classes
    label = step.batch(view).label
    assert label is not None, f"view {view} gave no labels"
    if (wait or label.device.type == "cpu") and len(label) and int(label.max()) >= classes:
        raise DataError(
            f"view {view} has a label {int(label.max())}, the objective {config.use} {classes} classes, "
            f"0 to {classes - 1}; set classes"
        )
    return label


def class_counts(step: Step, config: ConditionalConfig) -> Tensor:
    """(classes,) float64, how often each class is among the rows of a step."""
    label = known_classes(step, config, wait=True)
    return torch.bincount(label[label >= 0], minlength=config.classes).double()


def class_shares(counts: Tensor, config: ConditionalConfig) -> Tensor:
    """(classes,) shares of the classes, of counts of all rows.

    Raises:
        DataError: No row has a label.
    """
    if not bool(counts.any()):
        raise DataError(f"view {config.view}: no row has a label; set classes = 0, or label the data")
    return counts / counts.sum()


def drawn_classes(frequency: Tensor, seeds: Tensor, balance: str) -> Tensor:
    """(B,) classes of row seeds.

    Args:
        frequency: (classes,) shares in the training data; empty: all are 0.
        seeds: (B,) int64.
        balance: ``"data"``: as often as in the training data; ``"uniform"``: all alike.
    """
    if not len(frequency):
        return torch.zeros_like(seeds)
    share = frequency.double() if balance == "data" else torch.ones_like(frequency).double()
    bounds = share.cumsum(0) / share.sum()
    number = row_rand(seeds, 1, draw=1, dtype=torch.float64)[:, 0]
    drawn = torch.searchsorted(bounds, number, right=True)
    return drawn.clamp(max=int(share.nonzero().max()))  # rounding may leave the last bound below 1
