"""Encoder, bottleneck and decoder of diffusers' autoencoders keep the rules of components."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.plugins.diffusers.making import dc, flux2, kl, tiny, vq
from vtp_core.parameters import Dims
from vtp_core.testing import check_bottleneck, check_decoder, check_encoder
from vtp_plugins.diffusers.bottleneck import DiffusersBottleneck
from vtp_plugins.diffusers.config import (
    DiffusersBottleneckConfig,
    DiffusersDecoderConfig,
    DiffusersEncoderConfig,
)
from vtp_plugins.diffusers.decoder import DiffusersDecoder
from vtp_plugins.diffusers.encoder import DiffusersEncoder

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("make", [kl, flux2, vq, dc, tiny])
def test_conforms(make: Callable[..., Any]) -> None:
    model = make()
    settings = {"_class_name": type(model).__name__, **model.config}
    settings = {key: value for key, value in settings.items() if key not in ("_use_default_values",)}
    encoder = DiffusersEncoderConfig(model=settings)
    layout = encoder.layout
    dims = Dims(width=layout.width, patch=layout.patch, depth=1, has_cls=False)
    check_encoder(DiffusersEncoder, encoder)
    check_bottleneck(DiffusersBottleneck, DiffusersBottleneckConfig(model=settings), dims=dims)
    given = Dims(width=8, patch=layout.patch, depth=1, has_cls=False, channels=layout.channels)
    check_decoder(DiffusersDecoder, DiffusersDecoderConfig(model=settings), dims=given)
