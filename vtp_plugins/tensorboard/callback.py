"""Writes what a run logs to TensorBoard event files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vtp_core.errors import UsageError
from vtp_core.run.callback import Callback, RunInfo
from vtp_plugins.tensorboard.config import TensorBoardConfig

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoard(Callback):
    """One scalar chart a metric, under its own name; results of evaluators under ``eval/``.

    After a resume TensorBoard hides what an earlier process wrote from the resumed step on.
    """

    def __init__(self, config: TensorBoardConfig) -> None:
        super().__init__(config)
        self._folder, self._flush_seconds = config.folder, config.flush_seconds
        self._writer: SummaryWriter | None = None

    def on_run_start(self, run: RunInfo) -> None:
        """Opens the event file and writes the recipe into it.

        Raises:
            UsageError: The package tensorboard isn't installed.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UsageError(
                f"callback tensorboard: {error}; run: pip install 'vtp-core[tensorboard]', "
                "or remove the callback"
            ) from None
        self._writer = SummaryWriter(
            str(run.folder / self._folder), purge_step=run.start or None, flush_secs=self._flush_seconds
        )
        text = json.dumps(run.recipe, indent=2)
        self._writer.add_text("recipe", f"```json\n{text}\n```", run.start)

    def on_step_end(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes every metric."""
        for name, value in metrics.items():
            if name != "step":
                self._scalar(name, value, step)

    def on_evaluate(self, step: int, results: Mapping[str, Mapping[str, Any]]) -> None:
        """Writes every result and its baseline."""
        for name, result in results.items():
            self._scalar(f"eval/{name}", result["value"], step)
            if result.get("baseline") is not None:
                self._scalar(f"eval/{name}/baseline", result["baseline"], step)

    def on_run_end(self, step: int, finished: bool) -> None:
        """Closes the event file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _scalar(self, name: str, value: float | None, step: int) -> None:
        if self._writer is not None:
            self._writer.add_scalar(name, math.nan if value is None else value, step)
