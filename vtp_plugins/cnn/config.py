"""Recipe tables of the `cnn` encoder and decoder. Imports no torch.

Defaults are those of latent diffusion's f16 auto-encoder (Rombach et al. 2022, public configuration), which
is the convolutional baseline of VTP (arXiv 2512.13687, table 1).
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from vtp_core.config import ComponentConfig, KeyHistory

GROUPS = 32
"""Groups of every GroupNorm; channels are multiples of it."""

Positive = Annotated[int, Field(gt=0)]


class CnnConfig(ComponentConfig):
    """What encoder and decoder have in common."""

    use: str = "cnn"
    """Name of the component."""
    channels: Positive = 128
    """Channels of the finest level, a multiple of 32."""
    multipliers: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=12)] = (1, 1, 2, 2, 4)
    """Channels of each level over `channels`, finest first. Each level but the last halves the map, so five
    make a reduction of 16."""
    residual_blocks: Positive = 2
    """Residual blocks a level; the decoder has one more."""
    attention: tuple[Positive, ...] = (16,)
    """Reductions at which each residual block is followed by attention: 16 is the 16 x 16 map of an image of
    256 pixels. The coarsest map always has one more."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.channels % GROUPS:
            raise ValueError(f"channels = {self.channels} is not a multiple of {GROUPS} (GroupNorm)")
        known = [2**level for level in range(len(self.multipliers))]
        if unknown := [reduction for reduction in self.attention if reduction not in known]:
            raise ValueError(f"attention: there is no map at reduction {unknown[0]}; they are {known}")
        return self

    @property
    def patch(self) -> int:
        """Pixels a side of a latent position."""
        return int(2 ** (len(self.multipliers) - 1))

    @property
    def level_channels(self) -> tuple[int, ...]:
        """Channels of each level, finest first."""
        return tuple(self.channels * multiplier for multiplier in self.multipliers)


class CnnEncoderConfig(CnnConfig):
    """``[encoder] use = "cnn"``."""

    key_history: ClassVar[KeyHistory] = KeyHistory(added={"value_range": "imagenet"})

    width: Positive = 128
    """Channels that leave the encoder. Latent diffusion has twice the latent's: 128 for 64. The linear layer
    of the `kl` bottleneck is then its 1 x 1 convolution to mean and log variance."""
    value_range: Literal["imagenet"] | tuple[float, float] = "imagenet"
    """Range to which the images are converted first: ``imagenet`` for ImageNet-normalised, as they come, else
    [black, white]. Published auto-encoders of latent diffusion take [-1, 1]."""


class CnnDecoderConfig(CnnConfig):
    """``[decoder] use = "cnn"``. Starts with latent diffusion's 1 x 1 convolution of the latent."""

    value_range: Literal["imagenet"] | tuple[float, float] = "imagenet"
    """Range of the images it makes: ``imagenet`` for ImageNet-normalised, else [black, white]."""
