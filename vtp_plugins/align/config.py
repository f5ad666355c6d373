"""The table of ``use = "align"``. Imports no torch.

Defaults are those of VA-VAE (Yao et al. 2025, arXiv 2501.01423, section 3.2 and the public configuration of
its first stage's margins).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from vtp_core.config import ObjectiveConfig
from vtp_core.view import ViewNeed

NotNegative = Annotated[float, Field(ge=0)]


class AlignConfig(ObjectiveConfig):
    """Latents, linearly projected, beside the features of a frozen network."""

    view: str
    """View whose global crops are aligned."""
    rows: Annotated[int, Field(gt=0)] | None = None
    """Global rows per step, the view's first ones; default: all."""
    network: str
    """Table ``[frozen.NAME]`` of the network; its grid has to be the latent's."""
    width: Annotated[int, Field(gt=0)]
    """Width of the tokens that are compared."""
    layer: Annotated[int, Field(ge=0)] | None = None
    """Block of the network whose tokens are compared; None: its output."""
    cosine_margin: Annotated[float, Field(ge=0, le=2)] = 0.5
    """m1: a cosine similarity above 1 - m1 costs nothing."""
    distance_margin: Annotated[float, Field(ge=0, le=2)] = 0.25
    """m2: a difference of two similarities below m2 costs nothing."""
    cosine: NotNegative = 1.0
    """Factor on the cosine term."""
    distance: NotNegative = 1.0
    """Factor on the distance-matrix term."""
    adaptive: bool = True
    """Whether the terms are scaled so that their gradient at the latent is as large as the one that the
    objectives before this one in the recipe leave there, through the decoder or directly. VA-VAE compares at
    the encoder's last layer. `weight` comes on top (VA-VAE: 0.1, in its early stage 0.5)."""

    def views(self) -> Mapping[str, ViewNeed]:
        """The one view."""
        return {self.view: ViewNeed(rows=self.rows)}
