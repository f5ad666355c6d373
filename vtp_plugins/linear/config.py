"""Recipe table of the `linear` bottleneck. Imports no torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from vtp_core.config import ComponentConfig, KeyHistory


class LinearConfig(ComponentConfig):
    """``[bottleneck] use = "linear"``."""

    key_history: ClassVar[KeyHistory] = KeyHistory(added={"norm": "none"})

    use: str = "linear"
    """Name of the component."""
    channels: Annotated[int, Field(gt=0)] = 64
    """Latent channels d (published: 64); equal to the encoder's width: no projection."""
    norm: Literal["none", "rms", "sphere"] = "none"
    """Norm of each latent token: root mean square 1 (GAE), or length 1 (a sphere, DINO-SAE)."""
