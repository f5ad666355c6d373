"""Tells of a loss that jumps: a run that is about to go wrong shows it here first."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from statistics import median

WINDOW = 64
"""Steps that a loss is compared with."""
LEAST = 16
"""Steps before anything is said of a loss."""
SCORE = 10.0
"""Robust deviations above the median that count as a spike: noise of a batch stays far below."""
FLOOR = 1e-2
"""Share of the median below which no deviation is taken for one: a loss that rests at its value may stir."""


class SpikeWatch:
    """Compares each loss with its own last steps. Only speaks: no step is skipped for a finite loss.

    The deviation is 1.4826 times the median distance from the median, which few outliers don't move. A run
    that resumes starts with empty windows, so it is silent for a few steps.
    """

    def __init__(self) -> None:
        self._seen: dict[str, deque[float]] = {}

    def see(self, losses: Mapping[str, float]) -> list[str]:
        """Takes the losses of a step.

        Args:
            losses: Name -> unweighted loss, finite and the same on all ranks.

        Returns:
            One line for each spike.
        """
        return [line for name, loss in losses.items() if (line := self._see(name, loss)) is not None]

    def _see(self, name: str, loss: float) -> str | None:
        if not loss:  # it takes no part yet, as that of a critic in its warm-up
            return None
        window = self._seen.setdefault(name, deque(maxlen=WINDOW))
        middle = median(window) if len(window) >= LEAST else loss
        deviation = 1.4826 * median(abs(value - middle) for value in window) if window else 0.0
        usual = max(deviation, FLOOR * abs(middle))
        steps = len(window)
        window.append(loss)
        score = (loss - middle) / usual if usual else 0.0
        if score <= SCORE:
            return None
        before = f"its median {middle:.4g} of {steps} steps"
        return f"loss {name} = {loss:.4g} is {score:.0f} deviations above {before}"
