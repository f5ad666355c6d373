"""Tables of the `diffusers` components: the settings of one of diffusers' autoencoders. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, field_validator

from vtp_core.config import ComponentConfig
from vtp_core.errors import CheckpointError
from vtp_plugins.diffusers.layout import Layout, layout_of


class DiffusersConfig(ComponentConfig):
    """What encoder, bottleneck and decoder have in common."""

    use: str = "diffusers"
    """Name of the component."""
    model: Mapping[str, Any]
    """Settings of the autoencoder as in its ``config.json``, `_class_name` too. What is left out has the
    default of diffusers' class."""
    statistics_shape: tuple[Annotated[int, Field(gt=0)], ...] = ()
    """Of an ``AutoencoderRAE``: shape of the statistics in its weights, which `model` leaves out; empty: it
    has none."""

    @field_validator("model")
    @classmethod
    def _known(cls, model: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            layout_of(model)
        except CheckpointError as error:
            raise ValueError(str(error)) from None
        return model

    @property
    def layout(self) -> Layout:
        """Sizes that follow from the settings."""
        return layout_of(self.model)


class DiffusersEncoderConfig(DiffusersConfig):
    """``[encoder] use = "diffusers"``."""


class DiffusersBottleneckConfig(DiffusersConfig):
    """``[bottleneck] use = "diffusers"``."""

    weight: Annotated[float, Field(ge=0)] = 1e-6
    """Factor on the KL term of a Gaussian latent, a sum over an image's latent (latent diffusion: 1e-6)."""
    commitment: Annotated[float, Field(ge=0)] = 1.0
    """Factor on the loss of a codebook."""


class DiffusersDecoderConfig(DiffusersConfig):
    """``[decoder] use = "diffusers"``."""
