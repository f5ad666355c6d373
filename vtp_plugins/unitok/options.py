"""The owner's settings of a UniTok, and the component tables that they mean. Imports no torch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import ConfigDict

from vtp_core.config import Table
from vtp_plugins.pretrained.settings import Shapes, count, fitting
from vtp_plugins.unitok.config import (
    Positive,
    UniTokBottleneckConfig,
    UniTokDecoderConfig,
    UniTokEncoderConfig,
)
from vtp_plugins.vq.config import LearnedConfig, ProductConfig

HEADS = {"vitamin_small": 6, "vitamin_base": 12, "vitamin_large": 16}
"""Attention heads of ViTamin's sizes (timm's tables); the tensors do not show them."""
HEAD_WIDTH = 64
"""Channels of a head in all of them."""


class Settings(Table):
    """What the reader heeds of ``args``; the rest is of training or of the text tower."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    model: str
    """Name of the encoder's size."""
    img_size: Positive = 256
    """Side of the images it was trained on."""
    vocab_size: Positive
    """Codes of all codebooks together."""
    vocab_width: Positive
    """Latent channels of all codebooks together."""
    vocab_norm: Literal[True] = True
    """Whether vectors and codes have length 1: no other kind is published."""
    vq_beta: float = 0.25
    """Factor on the commitment loss, for further training."""
    num_codebooks: Positive
    """Codebooks."""
    quant_proj: Literal["attn"]
    """The kind of projection: no other kind is published."""
    num_query: Literal[0] = 0
    """Learned queries: none are published."""
    num_heads: Positive | None = None
    """Heads of a model that is none of ViTamin's sizes; not a key of the owner's."""


class Networks(Table):
    """The tables of the three networks."""

    encoder: UniTokEncoderConfig
    bottleneck: UniTokBottleneckConfig
    decoder: UniTokDecoderConfig

    @classmethod
    def of(cls, path: Path, settings: Settings, shapes: Shapes) -> Self:
        """The tables of the owner's settings; widths and numbers of blocks are those of the tensors.

        Args:
            path: The file of tensors, for messages.
            settings: The owner's settings.
            shapes: Name -> shape of the tensors.

        Raises:
            CheckpointError: Settings and tensors are of different models.
        """
        with fitting(path, "UniTok"):
            return cls(
                encoder=UniTokEncoderConfig(**_transformer("encoder", settings, shapes), **_down(shapes)),
                bottleneck=_bottleneck(settings),
                decoder=UniTokDecoderConfig(**_transformer("decoder", settings, shapes), **_up(shapes)),
            )


def _transformer(part: str, settings: Settings, shapes: Shapes) -> dict[str, int]:
    heads = HEADS.get(settings.model, settings.num_heads)
    if heads is None:
        raise ValueError(f"model {settings.model!r} is none of {', '.join(HEADS)}: add num_heads to args")
    width = shapes[f"{part}.norm.weight"][0]
    if settings.model in HEADS and width != HEAD_WIDTH * heads:
        raise ValueError(f"its {part} is {width} wide, which is not {settings.model!r}")
    if width % settings.vocab_width:
        raise ValueError(f"its {part}'s width {width} is no multiple of vocab_width {settings.vocab_width}")
    return {
        "width": width,
        "depth": count(shapes, rf"{part}\.blocks\.(\d+)\."),
        "heads": heads,
        "hidden": shapes[f"{part}.blocks.0.mlp.w0.weight"][0],
    }


def _down(shapes: Shapes) -> dict[str, Any]:
    stages = "encoder.patch_embed.backbone.stages"
    return {
        "widths": tuple(shapes[f"{stages}.{i}.0.conv3_1x1.weight"][0] for i in (0, 1)),
        "stages": tuple(count(shapes, rf"{re.escape(stages)}\.{i}\.(\d+)\.") for i in (0, 1)),
    }


def _up(shapes: Shapes) -> dict[str, Any]:
    coarse, fine = (shapes[f"decoder.up_conv{i}.0.conv3_1x1.weight"][0] for i in (2, 3))
    return {
        "widths": (fine, coarse),
        "stages": tuple(count(shapes, rf"decoder\.up_conv{i}\.(\d+)\.") for i in (2, 3)),
    }


def _bottleneck(settings: Settings) -> UniTokBottleneckConfig:
    books = settings.num_codebooks
    if settings.vocab_size % books or settings.vocab_width % books:
        raise ValueError(
            f"vocab_size {settings.vocab_size} and vocab_width {settings.vocab_width} do not divide into "
            f"num_codebooks = {books}"
        )
    each = LearnedConfig(
        kind="codebook_loss",
        codes=settings.vocab_size // books,
        metric="cosine",
        commitment=settings.vq_beta,
        initialise="random",
    )
    return UniTokBottleneckConfig(
        channels=settings.vocab_width,
        quantizer=ProductConfig(kind="product", groups=books, each=each),
        calibration_rows=0,
    )
