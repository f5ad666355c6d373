"""Settings of the evaluator `latent_statistics`. Imports no torch."""

from typing import Annotated, Literal

from pydantic import Field

from vtp_core.config import ComponentConfig


class LatentStatisticsConfig(ComponentConfig):
    """A table ``[evaluators.NAME]`` with ``use = "latent_statistics"``."""

    use: Literal["latent_statistics"] = "latent_statistics"
    """This evaluator."""
    dead: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """A channel is dead if its deviation is at most this fraction of the channels' root mean square
    deviation."""
