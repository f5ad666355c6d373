"""Settings of all forwards of a run."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch

from vtp_core.training.forward.observer import Observer


@dataclass(frozen=True, kw_only=True)
class ForwardOptions:
    """Settings of every forward of a run.

    Attributes:
        seed: The run's seed.
        total: Steps of the run.
        microbatch_rows: Local rows per chunk; None runs all at once and keeps the graphs.
        autocast: Precision of the forwards; None is float32.
        drop_path: View -> probability for the student.
        observer: Called for what runs.
    """

    seed: int = 0
    total: int = 1
    microbatch_rows: int | None = None
    autocast: torch.dtype | None = None
    drop_path: Mapping[str, float] = field(default_factory=dict)
    observer: Observer = field(default_factory=Observer)

    def precision(self, device: torch.device) -> AbstractContextManager[None]:
        """Autocast of one forward, uncached: a cast without gradient must not serve one with gradient."""
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(device.type, self.autocast, cache_enabled=False)
