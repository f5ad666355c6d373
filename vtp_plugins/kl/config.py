"""Recipe table of the `kl` bottleneck. Imports no torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from vtp_core.config import ComponentConfig


class KlConfig(ComponentConfig):
    """``[bottleneck] use = "kl"``."""

    use: str = "kl"
    """Name of the component."""
    channels: Annotated[int, Field(gt=0)] = 16
    """Latent channels d."""
    weight: Annotated[float, Field(ge=0)] = 1e-6
    """Factor on the KL term, a sum over an image's latent (latent diffusion: 1e-6)."""
