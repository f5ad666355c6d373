"""Tables of the `rae` encoder, bottleneck and decoder. Imports no torch.

Defaults are those of the published DINOv2-B model at 256 pixels.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from vtp_core.config import ComponentConfig

Family = Literal["dinov2", "siglip2", "mae"]
Width = Annotated[int, Field(gt=0, le=1 << 16)]
Depth = Annotated[int, Field(ge=1, le=1000)]
Eps = Annotated[float, Field(ge=0, le=1)]
Three = tuple[float, float, float]
IMAGENET_MEAN: Three = (0.485, 0.456, 0.406)
IMAGENET_STD: Three = (0.229, 0.224, 0.225)


class BlocksConfig(ComponentConfig):
    """Sizes of the transformer blocks, which encoder and decoder have in common."""

    width: Width = 768
    """Token width."""
    depth: Depth = 12
    """Number of blocks."""
    heads: Width = 12
    """Attention heads."""
    hidden: Width = 3072
    """Width of the feed-forward layers."""
    eps: Eps = 1e-6
    """Epsilon of the layer norms."""
    image_mean: Three = IMAGENET_MEAN
    """Mean of [0, 1] pixels that the encoder subtracts and the decoder adds."""
    image_std: Three = IMAGENET_STD
    """Standard deviation of [0, 1] pixels."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of heads {self.heads}")
        if not all(value > 0 for value in self.image_std):
            raise ValueError("image_std must be above 0")
        return self


class RaeEncoderConfig(BlocksConfig):
    """``[encoder] use = "rae"``."""

    use: str = "rae"
    """Name of the component."""
    family: Family = "dinov2"
    """Architecture: ``dinov2`` (class token, 4 registers, layer scale), ``siglip2`` (no class token, GELU by
    tanh) or ``mae`` (class token)."""
    input_size: Width = 224
    """Side to which images are resized, whatever theirs."""
    native_patch: Annotated[int, Field(gt=0, le=1024)] = 14
    """Pixels a patch side after the resize."""
    positions: Annotated[int, Field(gt=0, le=4096)] = 37
    """Rows and columns of the stored positions, which are interpolated to the grid of the patches."""
    patch: Annotated[int, Field(gt=0, le=1024)] = 16
    """Pixels of the decoded image a token side."""

    @model_validator(mode="after")
    def _patches_fit(self) -> Self:
        if self.input_size % self.native_patch:
            raise ValueError(f"input_size {self.input_size} is no multiple of the patch {self.native_patch}")
        return self

    @property
    def side(self) -> int:
        """Rows and columns of the tokens."""
        return self.input_size // self.native_patch


class RaeConfig(ComponentConfig):
    """``[bottleneck] use = "rae"``."""

    use: str = "rae"
    """Name of the component."""
    grid: Annotated[int, Field(gt=0, le=4096)] | None = None
    """Rows and columns of the stored statistics; None: tokens pass unchanged."""
    eps: Eps = 1e-5
    """Added to the variance."""


class RaeDecoderConfig(BlocksConfig):
    """``[decoder] use = "rae"``."""

    use: str = "rae"
    """Name of the component."""
    width: Width = 1152
    """Token width."""
    depth: Depth = 28
    """Number of blocks."""
    heads: Width = 16
    """Attention heads."""
    hidden: Width = 4096
    """Width of the feed-forward layers."""
    eps: Eps = 1e-12
    """Epsilon of the layer norms."""
    grid: Annotated[int, Field(gt=0, le=4096)] = 16
    """Rows and columns of the latents that it takes."""
    normalized: bool = True
    """Whether latents are normalised by stored statistics, which it undoes."""
    latent_eps: Eps = 1e-5
    """Added to the variance of the statistics, as in the bottleneck."""
