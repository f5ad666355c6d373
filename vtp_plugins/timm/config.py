"""The table of ``[encoder] use = "timm"``. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from vtp_core.config import ComponentConfig
from vtp_plugins.vit.config import VitEncoderConfig

Positive = Annotated[int, Field(gt=0)]


class TimmConfig(ComponentConfig):
    """A network of timm as encoder."""

    use: str = "timm"
    """Name of the component."""
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)?$")]
    """timm's name, such as ``vit_base_patch14_reg4_dinov2.lvd142m`` (Apache 2.0). Others have other licenses:
    that of DINOv3 restricts use, MAE's forbids commercial use. Log and model card name it."""
    weights: str | None = None
    """File with the weights under timm's names; None: an installed package, else the hub. ``"random"``:
    an untrained network."""
    hash: Annotated[str, Field(pattern=r"^([0-9a-f]{16})?$")] = ""
    """Hash that the weights must have, as log and model card print it; empty: any."""
    store: Literal["whole", "reference"] = "whole"
    """Whether checkpoints and the artefact hold the network, or its name and hash alone: then whoever loads
    them needs the weights in one of the places of `weights`. ``reference`` is for frozen networks and needs
    `hash`."""
    options: Mapping[str, bool | int | float | str] = {}
    """Further arguments of ``timm.create_model``, such as `embed_dim` of an untrained network."""
    patch: Positive | None = None
    """Pixels a token side; None: the network's own. Another one than a transformer's own resizes the images:
    with 16, a network of patch 14 sees images of 256 pixels at 224, and both have a grid of 16 x 16. Of a
    convolutional network, it chooses the deepest stage of this reduction; later stages are left out."""
    norm: Literal["final", "none", "no_affine"] = "final"
    """What the last block's tokens go through: the network's final norm, none, or a LayerNorm without scale
    and offset (RAE). A network without final norm, such as a convolutional one, takes ``none``."""
    trainable: Annotated[int, Field(ge=0)] = 0
    """Last blocks (stages of a convolutional network) that are trained; 0: the network is frozen. All of it
    stays in evaluation mode: no dropout, no drop path, and batch norms keep their statistics."""
    shallow: Literal["space_to_depth", "average"] = "space_to_depth"
    """How finer maps of a convolutional network come to the tokens' grid: a block of r x r positions as
    r * r * D channels, which loses nothing, or averaged to D, which loses detail."""
    residual: VitEncoderConfig | None = None
    """A small vision transformer that is trained beside the frozen network (SVG, arXiv 2510.15301): its
    tokens are one more tap, one past the last block."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.store == "reference" and self.trainable:
            raise ValueError('store = "reference" is for frozen networks: set trainable = 0')
        return self

    def restored(self) -> Self:
        """By reference, the weights are read again and their hash is checked."""
        return self if self.store == "reference" else self.untrained()
