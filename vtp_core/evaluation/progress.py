"""Progress of passes over data, shown by whoever starts them. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

Advance = Callable[[int], None]
"""Counts further images."""


class Show(Protocol):
    """Shows a pass while it lasts."""

    def __call__(self, title: str, total: int = 0) -> AbstractContextManager[Advance]:
        """Opens a pass.

        Args:
            title: What is done, such as "latent statistics on samples/train".
            total: Its images; 0 if there is nothing to count.
        """
        ...


@contextmanager
def silent(title: str, total: int = 0) -> Iterator[Advance]:
    """Shows nothing."""
    yield lambda count: None
