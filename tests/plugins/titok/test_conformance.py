"""The conformance checks, and what only one row of tokens brings."""

from __future__ import annotations

import pytest
import torch

from vtp_core.errors import UsageError
from vtp_core.parameters import Dims
from vtp_core.testing import check_decoder, check_encoder
from vtp_plugins.titok.config import PixelsConfig, TiTokDecoderConfig, TiTokEncoderConfig
from vtp_plugins.titok.decoder import TiTokDecoder
from vtp_plugins.titok.encoder import TiTokEncoder

TINY = {"width": 16, "depth": 2, "heads": 2, "patch": 4, "size": 8, "tokens": 3}
DIMS = Dims(width=16, patch=4, depth=2, has_cls=False, channels=5)
PIXELS = PixelsConfig(codes=6, code_width=8, channels=(32, 64, 32), middle=1, blocks=1)


@pytest.mark.parametrize("legacy", [False, True])
def test_encoder(legacy: bool) -> None:
    check_encoder(TiTokEncoder, TiTokEncoderConfig(**TINY, legacy=legacy))


@pytest.mark.parametrize("pixels", [None, PIXELS])
def test_decoder(pixels: PixelsConfig | None) -> None:
    table = TiTokDecoderConfig(**TINY, pixels=pixels)
    check_decoder(TiTokDecoder, table, dims=DIMS, grid=(1, 3), image_size=(8, 8))


def test_drop_path_drops_rows() -> None:
    encoder = TiTokEncoder(TiTokEncoderConfig(**TINY)).train()
    image = torch.randn(64, 1, 3, 8, 8)
    with torch.no_grad():
        (plain,), (dropped,) = (encoder([image], [None], drop_path=p) for p in (0.0, 0.5))
        (again,) = encoder.eval()([image], [None], drop_path=0.5)
    same = (dropped.patches == plain.patches).flatten(1).all(1)
    assert not same.all()
    assert torch.equal(again.patches, plain.patches)


def test_other_latents_are_refused() -> None:
    decoder = TiTokDecoder(TiTokDecoderConfig(**TINY), DIMS)
    for grid in ((1, 4), (3, 1)):
        with pytest.raises(UsageError, match=r"its latents are \(B, d, 1, 3\), a row of 3 tokens"):
            decoder(torch.zeros(1, 5, *grid))


def test_tables_that_do_not_fit() -> None:
    for changes, message in (
        ({"heads": 3}, "width 16 is no multiple of heads 3"),
        ({"size": 10}, "size 10 is no multiple of the patch 4"),
        ({"pixels": PixelsConfig(channels=(32, 32))}, "2 levels do not enlarge by the patch 4"),
    ):
        with pytest.raises(ValueError, match=message):
            TiTokDecoderConfig(**{**TINY, **changes})
    with pytest.raises(ValueError, match="channels = 48 is not a multiple of 32"):
        PixelsConfig(channels=(48,))
