"""The table of ``use = "anchor"``. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from vtp_core.config import ObjectiveConfig
from vtp_core.view import ViewNeed


class AnchorConfig(ObjectiveConfig):
    """The encoder's features beside those of a frozen network of the same width."""

    view: str
    """View whose global crops are compared."""
    rows: Annotated[int, Field(gt=0)] | None = None
    """Global rows per step, the view's first ones; default: all."""
    network: str
    """Table ``[frozen.NAME]`` of the copy: the encoder's own table with ``trainable = 0``."""
    kind: Literal["cosine", "mse", "distances"] = "cosine"
    """``cosine``: one minus the cosine similarity of tokens; ``mse``: mean squared difference; ``distances``:
    mean absolute difference of the matrices of cosine similarities between an image's tokens, which leaves
    the features free to rotate."""
    layers: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Blocks whose tokens are compared as well."""
    patches: bool = True
    """Whether the encoder's patch tokens are compared."""
    cls: bool = False
    """Whether the class tokens are compared (not by ``distances``)."""

    def views(self) -> Mapping[str, ViewNeed]:
        """The one view, with the taps."""
        return {self.view: ViewNeed(rows=self.rows, layers=self.layers)}
