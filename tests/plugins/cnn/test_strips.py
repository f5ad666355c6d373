"""Strips of rows give what the whole map gives, and hold no more than they say."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from vtp_core.artefact.config import ArtefactConfig
from vtp_core.errors import UsageError
from vtp_core.parameters import Dims
from vtp_core.testing import tiny_tokenizer
from vtp_core.tokenizer import Tokenizer
from vtp_plugins.cnn.config import CnnDecoderConfig, CnnEncoderConfig
from vtp_plugins.cnn.decoder import CnnDecoder
from vtp_plugins.cnn.encoder import CnnEncoder
from vtp_plugins.cnn.strips import Strips
from vtp_plugins.kl.bottleneck import KlBottleneck
from vtp_plugins.kl.config import KlConfig

SIZES = {"channels": 32, "multipliers": (1, 2, 1), "residual_blocks": 1, "attention": (4,)}


def small() -> Tokenizer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = CnnEncoder(CnnEncoderConfig(**SIZES, width=6))
        dims = Dims(width=6, patch=4, depth=encoder.depth, has_cls=False, channels=3)
        bottleneck = KlBottleneck(KlConfig(channels=3), dims)
        decoder = CnnDecoder(CnnDecoderConfig(**SIZES), dims)
        for module in (*encoder.modules(), *decoder.modules()):
            if isinstance(module, nn.GroupNorm):  # ones and zeros would hide a norm that is not applied
                nn.init.normal_(module.weight, 1.0, 0.3)
                nn.init.normal_(module.bias, 0.0, 0.3)
    tables = {"encoder": {"use": "cnn"}, "bottleneck": {"use": "kl"}, "decoder": {"use": "cnn"}}
    config = ArtefactConfig(vtp_version="0", image_size=32, **tables)
    return Tokenizer(encoder, bottleneck, decoder, config=config).eval().requires_grad_(False)


PLAIN = small()
EXACT = copy.deepcopy(PLAIN).double()


def compare(plain: Tokenizer, pixels: Tensor, rows: int, tolerance: float) -> None:
    """Mean, log variance and image, on whole maps and on strips."""
    strips = copy.deepcopy(plain)
    strips.enable_tiling(rows)
    latent = plain.encode(pixels).latent
    for model in (plain, strips):
        dist = model.encode(pixels).latent_dist
        found = (dist.mean, dist.logvar, model.decode(latent).sample)
        if model is plain:
            expected = found
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(other, one, atol=tolerance, rtol=tolerance)


def drawn(batch: int, height: int, width: int, seed: int) -> Tensor:
    """Pixels with an offset that differs from strip to strip: norms by strips would be far off."""
    generator = torch.Generator().manual_seed(seed)
    ramp = torch.linspace(-2, 2, height)[:, None]
    return torch.randn(batch, 3, height, width, generator=generator) + ramp


@settings(max_examples=10)
@given(st.integers(1, 30), st.integers(1, 7), st.integers(2, 3), st.integers(1, 2))
@example(5, 1, 2, 1)  # norms over two pixels that hardly differ
def test_the_same_for_every_strip(rows: int, height: int, width: int, batch: int) -> None:
    compare(EXACT, drawn(batch, 4 * height, 4 * width, rows).double(), rows, 1e-9)


@pytest.mark.parametrize("rows", [1, 5, 16])
def test_in_float32_up_to_rounding(rows: int) -> None:
    compare(PLAIN, drawn(2, 64, 48, 0), rows, 1e-4)


def test_layers_see_a_strip_and_its_edge_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    plain = torch.nn.functional.conv2d

    def watched(x: Tensor, *arguments: object, **options: object) -> Tensor:
        seen.append(x.shape[2])
        return plain(x, *arguments, **options)

    monkeypatch.setattr("vtp_plugins.cnn.strips.F.conv2d", watched)
    block = PLAIN.encoder.order()[0].residual
    Strips(2, torch.device("cpu"))._residual(block, torch.randn(1, 32, 12, 4))
    assert max(seen) == 4  # two rows, one above and one below


def test_gradients_are_refused_and_none_ends_it() -> None:
    model = copy.deepcopy(PLAIN)
    model.enable_tiling()
    pixels = torch.randn(1, 3, 8, 8, requires_grad=True)
    with pytest.raises(UsageError, match=r"strips give no gradients; .*enable_tiling\(None\)"):
        model.encode(pixels)
    with torch.no_grad():
        model.encode(pixels)
    model.enable_tiling(None)
    model.encode(pixels).latent.sum().backward()
    assert pixels.grad is not None


def test_where_strips_would_change_the_result() -> None:
    model = tiny_tokenizer()
    with pytest.raises(UsageError, match="strips would change what the encoder makes"):
        model.enable_tiling()
    model.enable_tiling(None)
    for rows in (0, -1, True, 2.5, "4"):
        with pytest.raises(UsageError, match="rows must be a positive number"):
            copy.deepcopy(PLAIN).enable_tiling(rows)  # type: ignore[arg-type]
