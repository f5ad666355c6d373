"""The table of ``use = "koleo"``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from vtp_core.config import ObjectiveConfig
from vtp_core.schedule import NotNegative
from vtp_core.view import ViewNeed


class KoleoConfig(ObjectiveConfig):
    """Spreads class tokens over the sphere."""

    weight: NotNegative = 0.1
    """Factor on the term (DINOv2)."""
    view: str
    """View whose global crops are spread."""
    rows: Annotated[int, Field(gt=0)] | None = None
    """Global rows a step, the view's first ones; all by default."""
    scope: Literal["global", "rank"] = "global"
    """Where a row looks for its neighbour: among the rows of all ranks, equal at any world size, or among
    those of its own rank (DINOv2)."""
    masked: bool = True
    """Use the student's masked forward of the global crops, the one that `mim` needs (DINOv2)."""
    bottleneck: bool = False
    """Read the latent's class token instead of the encoder's."""
    eps: Annotated[float, Field(gt=0)] = 1e-8
    """Smallest distance that counts (DINOv2)."""

    def views(self) -> Mapping[str, ViewNeed]:
        """The one view: its global crops, masked."""
        return {self.view: ViewNeed(masked=self.masked, rows=self.rows)}
