"""The conformance checks of the three parts, and tables that don't fit."""

from __future__ import annotations

import pytest

from vtp_core.errors import UsageError
from vtp_core.parameters import Dims
from vtp_core.testing import check_bottleneck, check_decoder, check_encoder
from vtp_plugins.unitok.bottleneck import UniTokBottleneck
from vtp_plugins.unitok.config import UniTokBottleneckConfig, UniTokDecoderConfig, UniTokEncoderConfig
from vtp_plugins.unitok.decoder import UniTokDecoder
from vtp_plugins.unitok.encoder import UniTokEncoder
from vtp_plugins.vq.config import LearnedConfig, ProductConfig

SIZES = {"widths": (4, 8), "width": 16, "depth": 2, "heads": 2, "hidden": 12, "stages": (1, 2)}
DIMS = Dims(width=16, patch=16, depth=2, has_cls=False)
CODES = LearnedConfig(kind="codebook_loss", codes=8, metric="cosine", initialise="random")
LATENT = UniTokBottleneckConfig(channels=8, quantizer=ProductConfig(kind="product", groups=2, each=CODES))


def test_encoder() -> None:
    check_encoder(UniTokEncoder, UniTokEncoderConfig(**SIZES), size=48)


def test_bottleneck() -> None:
    check_bottleneck(UniTokBottleneck, LATENT, dims=DIMS)


def test_decoder() -> None:
    dims = Dims(width=16, patch=16, depth=2, has_cls=False, channels=8)
    check_decoder(UniTokDecoder, UniTokDecoderConfig(**SIZES), dims=dims, grid=(2, 1))


def test_tables_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="width 16 is no multiple of heads 3"):
        UniTokEncoderConfig(**{**SIZES, "heads": 3})
    with pytest.raises(UsageError, match="the width 20 and the 8 channels don't divide"):
        UniTokBottleneck(LATENT, Dims(width=20, patch=16, depth=2, has_cls=False))
    with pytest.raises(ValueError, match="enlarges by 16, but the encoder's patch is 8"):
        UniTokDecoder(
            UniTokDecoderConfig(**SIZES), Dims(width=16, patch=8, depth=2, has_cls=False, channels=8)
        )
