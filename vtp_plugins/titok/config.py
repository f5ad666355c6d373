"""Recipe tables of the `titok` encoder and decoder. Imports no torch.

Defaults are those of the published TiTok-L-32 (arXiv 2406.07550, section 4.1).
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from vtp_core.config import ComponentConfig, Table

GROUPS = 32
"""Groups of every GroupNorm of the pixel decoder; channels are multiples of it."""

Positive = Annotated[int, Field(gt=0, le=1 << 16)]


class TiTokConfig(ComponentConfig):
    """What encoder and decoder have in common."""

    use: str = "titok"
    """Name of the component."""
    width: Positive = 1024
    """Token width D."""
    depth: Annotated[int, Field(gt=0, le=1000)] = 24
    """Number of blocks."""
    heads: Positive = 16
    """Attention heads."""
    patch: Positive = 16
    """Pixels a patch side."""
    size: Positive = 256
    """Side of the only images that it takes: positions are fixed."""
    tokens: Positive = 32
    """Tokens N of the latent."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of heads {self.heads}")
        if self.size % self.patch:
            raise ValueError(f"size {self.size} is no multiple of the patch {self.patch}")
        return self

    @property
    def side(self) -> int:
        """Patches a side of the image."""
        return self.size // self.patch


class TiTokEncoderConfig(TiTokConfig):
    """``[encoder] use = "titok"``."""

    legacy: bool = False
    """Whether the (N, D) tokens are read as (D, N) without a transposition, as the first published models
    (l32, b64, s128) do."""


class PixelsConfig(Table):
    """``pixels = { ... }``: a convolutional decoder of codes, as the first published models have it.

    Defaults are those of the MaskGIT-VQGAN that they use (arXiv 2202.04200).
    """

    codes: Positive = 1024
    """Codes whose mean, weighted by the softmax of the network's scores, is decoded."""
    code_width: Positive = 256
    """Channels of a code."""
    channels: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=12)] = (128, 128, 256, 256, 512)
    """Channels of each level, finest first; each level but the finest doubles the map."""
    middle: Annotated[int, Field(ge=0, le=100)] = 2
    """Residual blocks before the first level."""
    blocks: Annotated[int, Field(gt=0, le=100)] = 2
    """Residual blocks a level."""

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if odd := [width for width in self.channels if width % GROUPS]:
            raise ValueError(f"channels = {odd[0]} is not a multiple of {GROUPS} (GroupNorm)")
        return self


class TiTokDecoderConfig(TiTokConfig):
    """``[decoder] use = "titok"``. Makes images in [0, 1]."""

    pixels: PixelsConfig | None = None
    """A pixel decoder behind the transformer; None: the transformer makes pixels itself."""

    @model_validator(mode="after")
    def _enlarges_by_the_patch(self) -> Self:
        if self.pixels is not None and 2 ** (len(self.pixels.channels) - 1) != self.patch:
            raise ValueError(
                f"pixels: {len(self.pixels.channels)} levels do not enlarge by the patch {self.patch}"
            )
        return self
