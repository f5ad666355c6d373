"""Recipe table of the `linear` bottleneck. Imports no torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from vtp_core.config import ComponentConfig


class LinearConfig(ComponentConfig):
    """``[bottleneck] use = "linear"``."""

    use: str = "linear"
    """Name of the component."""
    channels: Annotated[int, Field(gt=0)] = 64
    """Latent channels d (published: 64); equal to the encoder's width: no projection."""
