"""What probes read of a tokenizer."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from vtp_core.batch import Batch
from vtp_core.evaluation.evaluator import Observation
from vtp_core.features import Features, Tokens
from vtp_core.testing.networks import TINY_DIMS, TinyNetworks
from vtp_core.tokenizer import Tokenizer
from vtp_plugins.probes.vectors import VectorStore, raw_pixels, read_vectors
from vtp_plugins.vq.bottleneck import VqBottleneck
from vtp_plugins.vq.config import VqConfig


def _seen(rows: int = 3, width: int = 5, channels: int = 2):
    tokens = Tokens(cls=torch.randn(rows, 1, width), patches=torch.randn(rows, 1, 6, width), grid=(2, 3))
    features = Features(crops={"global": tokens})
    return SimpleNamespace(
        features=features, encoded=SimpleNamespace(latent=torch.randn(rows, channels, 2, 3))
    )


@pytest.mark.parametrize(
    ("reading", "width"),
    [
        ("cls", 5), ("patches", 5), ("cls_patches", 10), ("last_layer", 10), ("latent", 2),
        ("latent_map", 12),
    ],
)  # fmt: skip
def test_readings_have_their_width(reading, width):
    assert read_vectors(_seen(), reading).shape == (3, width)


def test_the_last_layer_is_the_class_token_and_the_mean_patch_token():
    seen = _seen()
    tokens = seen.features["global"]
    expected = torch.cat([tokens.cls[:, 0], tokens.patches[:, 0].mean(1)], 1)
    assert torch.equal(read_vectors(seen, "last_layer"), expected)
    bare = SimpleNamespace(features=Features(crops={"global": replace(tokens, cls=None)}))
    assert torch.equal(read_vectors(bare, "last_layer"), expected[:, 5:])


def test_the_latent_of_codes_is_their_codebook_vectors():
    torch.manual_seed(0)
    config = VqConfig.model_validate({"channels": 4, "quantizer": {"kind": "ema", "codes": 8}})
    bottleneck = VqBottleneck(config, TINY_DIMS).eval()
    networks = TinyNetworks(TINY_DIMS, 0)
    model = Tokenizer(networks.encoder, bottleneck, networks.decoder)
    batch = Batch(crops={"global": torch.randn(3, 1, 3, 16, 24)}, keys=("a", "b", "c"), rows=3)
    seen = Observation(model, batch, "train")
    codes = seen.encoded.indices
    vectors = torch.stack([bottleneck.decode_codes(row[None])[0].flatten(1).mean(1) for row in codes])
    torch.testing.assert_close(read_vectors(seen, "latent"), vectors)


def test_the_latent_map_keeps_positions_and_its_mean_is_the_mean_latent():
    seen = _seen()
    whole = read_vectors(seen, "latent_map").view(3, 2, 6)
    torch.testing.assert_close(whole.mean(-1), read_vectors(seen, "latent"))
    torch.testing.assert_close(whole[:, :, 4], seen.encoded.latent[:, :, 1, 1])


@pytest.mark.parametrize(("height", "width"), [(16, 16), (32, 32), (64, 64), (96, 40), (20, 50)])
def test_raw_pixels_are_bytes_and_at_most_half_a_level_from_the_mean(height, width):
    image = torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8)
    pixels = raw_pixels(image)
    assert pixels.dtype == torch.uint8
    side = min(height, 32), min(width, 32)
    assert pixels.shape == (2, 3 * side[0] * side[1])
    mean = image.double()
    if (height, width) == (64, 64):
        mean = mean.unflatten(3, (32, 2)).unflatten(2, (32, 2)).mean((3, 5))
    elif side != (height, width):
        return
    assert (pixels.double() - mean.flatten(1)).abs().max() <= 0.5


def test_a_store_keeps_a_byte_a_raw_pixel():
    """ImageNet's training set would take 16 GB as float32, 4 GB as bytes."""
    store = VectorStore()
    for _ in range(2):
        seen = _seen()
        seen.split, seen.image = "train", torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
        seen.batch = SimpleNamespace(label=torch.tensor([1, -1, 0]), keys=("a", "b", "c"))
        store.add(seen, torch.randn(3, 5))
    rows = store.tally().rows
    assert {name: (tensor.dtype, len(tensor)) for name, tensor in rows.items()} == {
        "train.features": (torch.float32, 4), "train.pixels": (torch.uint8, 4),
        "train.label": (torch.int64, 4), "train.order": (torch.int64, 4),
        "held_out.features": (torch.float32, 0), "held_out.pixels": (torch.uint8, 0),
        "held_out.label": (torch.int64, 0), "held_out.order": (torch.int64, 0),
    }  # fmt: skip
    assert rows["train.pixels"].nbytes == 4 * 3 * 32 * 32
    assert all(torch.equal(rows[name], again) for name, again in store.tally().rows.items())
