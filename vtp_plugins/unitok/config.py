"""Recipe tables of the `unitok` encoder, bottleneck and decoder. Imports no torch.

Defaults are those of the published tokenizer: ViTamin-L (arXiv 2404.02132), 8 codebooks of 4096 codes.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from vtp_core.config import ComponentConfig
from vtp_plugins.vq.config import LearnedConfig, ProductConfig, VqConfig

STRIDE = 16
"""Pixels a side of a token: the stem, two stages and the layer behind them halve the map."""

Positive = Annotated[int, Field(gt=0, le=1 << 16)]
Count = Annotated[int, Field(gt=0, le=1000)]


class UniTokConfig(ComponentConfig):
    """What encoder and decoder have in common."""

    use: str = "unitok"
    """Name of the component."""
    widths: tuple[Positive, Positive] = (160, 320)
    """Channels of the two stages of convolutions, the finer first."""
    width: Positive = 1024
    """Token width D."""
    depth: Count = 31
    """Transformer blocks."""
    heads: Positive = 16
    """Attention heads."""
    hidden: Positive = 2048
    """Hidden width of the gated feed-forward layers."""

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of heads {self.heads}")
        return self


class UniTokEncoderConfig(UniTokConfig):
    """``[encoder] use = "unitok"``."""

    stages: tuple[Count, Count] = (2, 4)
    """Convolution blocks of the two stages, the finer first."""


class UniTokDecoderConfig(UniTokConfig):
    """``[decoder] use = "unitok"``. Makes images in [-1, 1]."""

    stages: tuple[Count, Count] = (4, 2)
    """Convolution blocks of the two stages, the coarser first."""


class UniTokBottleneckConfig(VqConfig):
    """``[bottleneck] use = "unitok"``: attention in place of the linear layer of `vq`.

    The encoder's width must be a multiple of `channels`: each head is as wide as the latent.
    """

    use: str = "unitok"
    """Name of the component."""
    channels: Positive = 64
    """Latent channels d, those of all codebooks together."""
    quantizer: ProductConfig = ProductConfig(
        kind="product",
        groups=8,
        each=LearnedConfig(kind="codebook_loss", codes=4096, metric="cosine", initialise="random"),
    )
    """Codebooks of consecutive channels."""
