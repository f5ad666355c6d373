"""The table of ``use = "l1"`` and ``use = "l2"``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from vtp_core.config import KeyHistory, ObjectiveConfig
from vtp_core.view import ViewNeed


class ReconstructionConfig(ObjectiveConfig):
    """A pixel loss."""

    key_history: ClassVar[KeyHistory] = KeyHistory(values={"space": {"normalised": "normalized"}})

    view: str
    """View whose first global crop is reconstructed."""
    rows: Annotated[int, Field(gt=0)] | None = None
    """Global rows per step, the view's first ones; default: all."""
    space: Literal["normalized", "unit"] = "normalized"
    """Pixels with ImageNet's normalisation (VTP), or in [0, 1]."""

    def views(self) -> Mapping[str, ViewNeed]:
        """The one view."""
        return {self.view: ViewNeed(rows=self.rows)}
