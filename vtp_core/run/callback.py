"""Callbacks: listeners to a run, such as a logger; they can't change it. Imports no torch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vtp_core.config import ComponentConfig
from vtp_core.errors import UsageError, VtpError

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """What a callback knows about its run.

    Attributes:
        name: The recipe's name.
        folder: The run folder.
        start: Steps that were done before; above 0 after a resume.
        total: Steps of the whole run.
        recipe: The resolved recipe as JSON data.
    """

    name: str
    folder: Path
    start: int
    total: int
    recipe: Mapping[str, Any]


class Callback:
    """Base class of callbacks, constructed as ``Callback(config)`` on rank 0 only."""

    def __init__(self, config: ComponentConfig) -> None:
        self.config = config

    def on_run_start(self, run: RunInfo) -> None:
        """Before the first step. An exception ends the run."""

    def on_step_end(self, step: int, metrics: Mapping[str, float]) -> None:
        """After a logged step, with the line of ``metrics.jsonl``."""

    def on_checkpoint(self, step: int, folder: Path) -> None:
        """After a checkpoint was published in `folder`."""

    def on_evaluate(self, step: int, results: Mapping[str, Mapping[str, Any]]) -> None:
        """After an evaluation: metric -> ``value``, ``protocol``, ``baseline``."""

    def on_run_end(self, step: int, finished: bool) -> None:
        """Once, however the run ends; `finished`: whether all its steps are done."""


class Callbacks:
    """The callbacks of a run, called in their order.

    A callback that fails after the start is named in a warning and not called again: a failing logger does
    not end a training run.
    """

    def __init__(self, callbacks: Mapping[str, Callback]) -> None:
        self._callbacks = dict(callbacks)

    def run_start(self, run: RunInfo) -> None:
        """Calls `Callback.on_run_start`.

        Raises:
            UsageError: A callback failed; names it.
        """
        for name, callback in self._callbacks.items():
            try:
                callback.on_run_start(run)
            except VtpError:
                raise
            except Exception as error:
                raise UsageError(
                    f"callbacks.{name}: could not start ({error!r}); fix or remove it"
                ) from error

    def step_end(self, step: int, metrics: Mapping[str, float]) -> None:
        """Calls `Callback.on_step_end`."""
        self._call(lambda callback: callback.on_step_end(step, metrics))

    def checkpoint(self, step: int, folder: Path) -> None:
        """Calls `Callback.on_checkpoint`."""
        self._call(lambda callback: callback.on_checkpoint(step, folder))

    def evaluate(self, step: int, results: Mapping[str, Mapping[str, Any]]) -> None:
        """Calls `Callback.on_evaluate`."""
        self._call(lambda callback: callback.on_evaluate(step, results))

    def run_end(self, step: int, finished: bool) -> None:
        """Calls `Callback.on_run_end`."""
        self._call(lambda callback: callback.on_run_end(step, finished))

    def _call(self, method: Callable[[Callback], None]) -> None:
        for name, callback in list(self._callbacks.items()):
            try:
                method(callback)
            except Exception as error:
                del self._callbacks[name]
                _log.warning("callbacks.%s failed and is not called again: %r", name, error)
