"""A source of drawn pictures, for tests and planning."""

from __future__ import annotations

from vtp_core.data.source import Sample
from vtp_core.testing.shapes import CLASSES, draw


class ShapesSource:
    """Pictures 0 .. `samples` - 1 of `vtp_core.testing.shapes`, with captions and labels.

    Args:
        samples: Length.
        size: Side in pixels.
        seed: Another seed gives other pictures.
    """

    fields = frozenset({"image", "text", "label"})
    classes = CLASSES

    def __init__(self, samples: int, *, size: int = 64, seed: int = 0) -> None:
        self.samples, self.size, self.seed = samples, size, seed

    def __len__(self) -> int:
        return self.samples

    def read(self, index: int, fields: frozenset[str]) -> Sample:
        """Picture `index`, with the asked fields."""
        if not 0 <= index < self.samples:
            raise IndexError(index)
        drawing = draw(index, size=self.size, seed=self.seed)
        return Sample(
            key=f"shape-{index}",
            image=drawing.image if "image" in fields else None,
            text=drawing.caption if "text" in fields else None,
            label=drawing.label if "label" in fields else None,
        )
