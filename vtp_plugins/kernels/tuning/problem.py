"""Interface of a measured shape with its inputs on a device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch

from vtp_core.ops import AttentionChoice, SearchChoice, attention_choice, search_choice
from vtp_core.ops.choice import Choice, Kernel
from vtp_plugins.kernels.timing import Call
from vtp_plugins.kernels.tuning.attention_problem import AttentionProblem
from vtp_plugins.kernels.tuning.search_problem import SearchProblem
from vtp_plugins.kernels.tuning.shapes import AttentionShape, Shape


class Problem(Protocol):
    """A shape with its inputs."""

    case: Any
    """An `AttentionCase` or `SearchCase`."""

    def attributes(self) -> Mapping[str, object]:
        """The attributes of `case` that a ranking distinguishes, as JSON data."""
        ...

    def work(self) -> Mapping[str, float]:
        """What no implementation can avoid: ``flop``, ``bytes`` and, of attention, ``exponentials``."""
        ...

    def calls(self, kernel: Any) -> Mapping[str, Call]:
        """What is timed of an implementation; ``"step"`` is what it takes in a training step."""
        ...

    def disagreement(self, kernel: Any) -> str | None:
        """Runs an implementation: a sentence if it disagrees with the reference, else None."""
        ...

    def yardsticks(self) -> Mapping[str, Mapping[str, Call]]:
        """What torch offers beside the implementations of the operator: name -> what is timed."""
        ...


CHOICES: Mapping[str, type[Choice[Any]]] = {
    choice.operator: choice for choice in (AttentionChoice, SearchChoice)
}
"""Operator -> its choice class."""


def operator_of(shape: Shape) -> str:
    """Name of the operator of a shape."""
    return (AttentionChoice if isinstance(shape, AttentionShape) else SearchChoice).operator


def build(shape: Shape, device: torch.device) -> Problem:
    """Draws the inputs of a shape on a device."""
    if isinstance(shape, AttentionShape):
        return AttentionProblem(shape, device)
    return SearchProblem(shape, device)


def candidates(operator: str, device: torch.device) -> list[Kernel[Any, Any]]:
    """The installed implementations of an operator that can run on a device, torch's last."""
    choice = attention_choice() if operator == AttentionChoice.operator else search_choice()
    return [it for it in choice.kernels if it.device in (None, device.type) and it.missing() is None]
