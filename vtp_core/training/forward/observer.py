"""Observers of the forwards of a step: a no-op in a run; `vtp plan` and `vtp_core.testing` have their own."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from vtp_core.training.forward.cut import Cut, Phase

Key = tuple[object, ...]
"""(role, verb, view, masked) of a forward; ("student", "call", objective, number) of a `step.call`."""


class Observer:
    """No-op observer: its methods are called for what a step runs, and must not change it."""

    def asked(self, key: Key) -> None:
        """Called when an objective asks for a forward, whether it has run already or not."""

    def ran(self, key: Key, cut: Cut, module: nn.Module) -> None:
        """Called after rows of a forward of `module` were run."""

    def span(self, key: Key, phase: Phase) -> AbstractContextManager[None]:
        """Wraps the network's part of a forward, or of its backward."""
        return nullcontext()
