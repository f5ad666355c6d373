"""The table of ``use = "koleo"``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from vtp_core.config import ObjectiveConfig
from vtp_core.schedule import NotNegative
from vtp_core.view import ViewNeed


class KoleoConfig(ObjectiveConfig):
    """The KoLeo regulariser of class tokens."""

    weight: NotNegative = 0.1
    """Factor on the term (DINOv2)."""
    view: str
    """View whose global crops are used."""
    rows: Annotated[int, Field(gt=0)] | None = None
    """Global rows per step, the view's first ones; default: all."""
    scope: Literal["global", "rank"] = "global"
    """Rows among which the nearest neighbour is searched: those of all ranks, independent of the world size,
    or those of the same rank (DINOv2)."""
    masked: bool = True
    """Whether the student's global crops are masked, in the same forward as `mim`'s (DINOv2)."""
    bottleneck: bool = False
    """Whether to use the latent's class token instead of the encoder's."""
    eps: Annotated[float, Field(gt=0)] = 1e-8
    """Lower bound of distances (DINOv2)."""

    def views(self) -> Mapping[str, ViewNeed]:
        """The one view: its global crops, masked."""
        return {self.view: ViewNeed(masked=self.masked, rows=self.rows)}
