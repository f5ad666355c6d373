"""Settings of the evaluator `frechet`. Imports no torch."""

from typing import Annotated, Literal

from pydantic import Field

from vtp_core.config import ComponentConfig


class FrechetConfig(ComponentConfig):
    """A table ``[evaluators.NAME]`` with ``use = "frechet"``."""

    use: Literal["frechet"] = "frechet"
    """This evaluator."""
    network: Annotated[str, Field(pattern=r"^timm:[A-Za-z0-9_.]+$")] = "timm:tf_efficientnet_lite0"
    """``timm:<name>``: a network of timm, whose pooled features are compared."""
    weights: str | None = None
    """File with the network's weights; by default an installed package, else the hub. ``"random"`` is
    an untrained network for tests, whose distances mean nothing."""
    resize: Annotated[int, Field(ge=16)] | None = None
    """Side in pixels to which images are resized first; by default the network's own input size."""
