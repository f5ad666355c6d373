"""Who watches the forwards of a step: nobody in a run, `vtp plan` when it measures one."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from vtp_core.training.forward.cut import Cut, Phase

Key = tuple[object, ...]
"""(role, verb, view, masked) of a forward; ("student", "call", objective, number) of a `step.call`."""


class Observer:
    """Is told what a step runs; this one looks away. It must not change anything."""

    def asked(self, key: Key) -> None:
        """An objective asks for a forward, whether it has run already or not."""

    def ran(self, key: Key, cut: Cut, module: nn.Module) -> None:
        """Rows of a forward of `module` were run."""

    def span(self, key: Key, phase: Phase) -> AbstractContextManager[None]:
        """Wraps the network's part of a forward, or of its backward."""
        return nullcontext()
