"""Warns about loss spikes, an early sign of divergence."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from statistics import median

WINDOW = 64
"""Number of previous steps that a loss is compared with."""
LEAST = 16
"""Steps of a loss before the first warning."""
SCORE = 10.0
"""Robust deviations above the median that count as a spike; batch noise stays far below."""
FLOOR = 1e-2
"""Smallest deviation, as a fraction of the median: a constant loss does not trigger."""


class SpikeWatch:
    """Compares each loss with its previous steps. It only warns; no step is skipped for a finite loss.

    The deviation is 1.4826 times the median absolute deviation, which is robust to outliers. After a resume
    the windows are empty, so the first warning comes `LEAST` steps later at the earliest.
    """

    def __init__(self) -> None:
        self._seen: dict[str, deque[float]] = {}

    def see(self, losses: Mapping[str, float]) -> list[str]:
        """Adds the losses of a step.

        Args:
            losses: Name -> unweighted loss, finite and the same on all ranks.

        Returns:
            One line for each spike.
        """
        return [line for name, loss in losses.items() if (line := self._see(name, loss)) is not None]

    def _see(self, name: str, loss: float) -> str | None:
        if not loss:  # not active yet, such as a critic's loss in its warm-up
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
