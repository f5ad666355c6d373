"""Stop signals: SIGTERM, SIGINT and SIGUSR1 set a flag that all ranks read at the end of a step."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType

import torch

from vtp_core.training.ranks.world import World


class StopFlag:
    """Whether a stop signal arrived. A context manager; a second signal exits at once."""

    _SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)

    def __init__(self) -> None:
        self._asked: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopFlag:
        if threading.current_thread() is threading.main_thread():
            for number in self._SIGNALS:
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def asked(self, world: World) -> bool:
        """Whether any rank got a signal; every rank calls it at the same step."""
        flag = torch.tensor(float(self._asked is not None), device=world.device)
        return bool(world.sum(flag) > 0)

    def _ask(self, number: int, _: FrameType | None) -> None:
        if self._asked is not None:
            os._exit(128 + number)
        self._asked = number
