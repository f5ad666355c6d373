"""The table of ``use = "perceptual"``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from vtp_core.config import ObjectiveConfig
from vtp_core.view import ViewNeed

NETWORKS = r"^(lpips_alex|lpips_vgg|lpips_squeeze|lpips_squeeze_ndf|timm:[A-Za-z0-9_.]+)$"


class PerceptualConfig(ObjectiveConfig):
    """A perceptual loss."""

    view: str
    """View whose first global crop is reconstructed."""
    rows: Annotated[int, Field(gt=0)] | None = None
    """Global rows per step, the view's first ones; default: all."""
    network: Annotated[str, Field(pattern=NETWORKS)] = "lpips_vgg"
    """``lpips_alex``, ``lpips_vgg`` (VTP, VA-VAE), ``lpips_squeeze``; ``lpips_squeeze_ndf``: LPIPS' linear
    heads on the SqueezeNet of the package ndf, not LPIPS; ``timm:<name>``: a timm network."""
    weights: str | None = None
    """File with the network's weights; default: an installed package, else the hub. ``"random"``: an
    untrained network, for tests and planning only."""
    resize: Annotated[int, Field(ge=16)] | None = None
    """Side to which both images are resized; default: their own size."""

    def views(self) -> Mapping[str, ViewNeed]:
        """The one view."""
        return {self.view: ViewNeed(rows=self.rows)}
